"""`python -m pipeline.compile_kernels`: compile the text kernels into the cache, so that no run waits for them."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import pyarrow as pa

from pipeline.annotators import Batch
from pipeline.classifiers.normalisation import normalise
from pipeline.decontamination.benchmarks import BenchmarkConfig
from pipeline.decontamination.config import DecontaminateConfig
from pipeline.decontamination.cutting import cut
from pipeline.decontamination.index import build_index
from pipeline.decontamination.matching import find
from pipeline.dedup.config import DedupConfig
from pipeline.dedup.signatures import signature_table
from pipeline.language import identify, load_model, model_path
from pipeline.perplexity.model import NgramModel
from pipeline.privacy.config import PrivacyConfig
from pipeline.privacy.masking import mask
from pipeline.quality.lines import Lines, line_rules, remove_lines
from pipeline.quality.signals import measure
from pipeline.text.scan import word_hashes
from pipeline.toxicity.word_lists import WordLists, WordListsConfig

TEXTS = ("The river bends twice before it reaches the mill, and then runs on to a@b.org.", "字")


def compile_kernels() -> None:
    """Run each kernel once on a few bytes."""
    texts = pa.array(TEXTS, pa.large_string())
    languages = ["en", "zh"]
    identify(load_model(model_path(None)), texts)
    rules = line_rules(Lines())
    measure(texts, languages, rules)
    remove_lines(texts, rules)
    normalise(texts, None, True)
    mask(texts, PrivacyConfig(), pa.array(languages))
    NgramModel.train([word_hashes(texts)]).perplexity(texts)
    documents = pa.table(
        {"id": ["0" * 32, "1" * 32], "source": ["a", "a"], "date": pa.nulls(2, pa.string()), "text": texts}
    )
    signature_table(documents, DedupConfig())
    with tempfile.TemporaryDirectory() as folder:
        _compile_lists(Path(folder), texts)


def _compile_lists(folder: Path, texts: pa.LargeStringArray) -> None:
    """The kernels that look for lists of words and for evaluation sets, which are read from files."""
    (folder / "en").write_text("mill\n", encoding="utf-8")
    table = pa.table({"text": texts, "url": pa.array(["https://a.org/b", None], pa.string())})
    WordLists(WordListsConfig(path=str(folder))).measure(Batch.of(table, pa.array(["en", "zh"]).to_numpy(False)))
    (folder / "items.txt").write_text(TEXTS[0], encoding="utf-8")
    benchmark = BenchmarkConfig(
        name="a", path=str(folder / "items.txt"), format="lines", fields=["line"], columns=["line"]
    )
    config = DecontaminateConfig(benchmarks=[benchmark])
    _, spans = find(texts, build_index(config), 0.0, None)
    cut(texts, spans, config.cut)


if __name__ == "__main__":
    started = time.perf_counter()
    compile_kernels()
    print(f"kernels compiled in {time.perf_counter() - started:.1f} s")
