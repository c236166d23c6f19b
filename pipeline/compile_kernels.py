"""`python -m pipeline.compile_kernels`: compile the text kernels into the cache, so that no run waits for them."""

from __future__ import annotations

import time

import pyarrow as pa

from pipeline.dedup.config import DedupConfig
from pipeline.dedup.signatures import signature_table
from pipeline.quality.c4 import C4Lines, line_rules, remove_lines
from pipeline.quality.signals import measure


def compile_kernels() -> None:
    """Run each kernel once on a few bytes."""
    texts = pa.array(["One short line.", "字"], pa.large_string())
    rules = line_rules(C4Lines())
    measure(texts, ["en", "zh"], rules)
    remove_lines(texts, rules)
    documents = pa.table(
        {"id": ["0" * 32, "1" * 32], "source": ["a", "a"], "date": pa.nulls(2, pa.string()), "text": texts}
    )
    signature_table(documents, DedupConfig())


if __name__ == "__main__":
    started = time.perf_counter()
    compile_kernels()
    print(f"kernels compiled in {time.perf_counter() - started:.1f} s")
