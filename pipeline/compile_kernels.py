"""`python -m pipeline.compile_kernels`: compile the text kernels into the cache, so that no run waits for them."""

from __future__ import annotations

import json
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.annotators import Batch
from pipeline.classifiers.normalisation import normalise
from pipeline.decontamination.benchmarks import BenchmarkConfig
from pipeline.decontamination.config import DecontaminateConfig
from pipeline.decontamination.cutting import cut
from pipeline.decontamination.index import build_index
from pipeline.decontamination.matching import find
from pipeline.dedup.config import DedupConfig
from pipeline.dedup.stages import Candidates, Deduplicate, Duplicates, PreferenceOrder, Signatures
from pipeline.execution import available_cores, run_stage
from pipeline.ingest import Ingest, IngestConfig
from pipeline.language import identify, load_model, model_path
from pipeline.perplexity.model import NgramModel
from pipeline.privacy.config import PrivacyConfig
from pipeline.privacy.masking import mask
from pipeline.quality import lines
from pipeline.quality.signals import measure
from pipeline.repeats.lines import LineRule, LinesConfig, Unit
from pipeline.repeats.stages import Lines, Substrings
from pipeline.repeats.substrings import SubstringsConfig
from pipeline.stage import Stage
from pipeline.store import Store
from pipeline.text.arrow import utf8_view
from pipeline.text.scan import word_hashes
from pipeline.text.words import SEGMENTERS
from pipeline.tokens.encoding import load_encoder
from pipeline.tokens.marks import mark_tokens, text_flags
from pipeline.tokens.spans import load_aligner
from pipeline.tokens.tokenizer import train_tokenizer
from pipeline.tokens.wordpiece import train_wordpiece
from pipeline.toxicity.word_lists import WordLists, WordListsConfig

LANGUAGES = ["en", "zh"]
TEXTS = ("The river bends twice before it reaches the mill, and then runs on to a@b.org.", "字")


def _privacy() -> None:
    mask(_texts(), PrivacyConfig(), pa.array(LANGUAGES))


def _statistics() -> None:
    rules = lines.line_rules(lines.Lines())
    measure(_texts(), LANGUAGES, rules)
    lines.remove_lines(_texts(), rules)


def _models() -> None:
    identify(load_model(model_path(None)), _texts())
    normalise(_texts(), None, True)
    NgramModel.train([word_hashes(_texts())]).perplexity(_texts())


def _duplicates() -> None:
    """The stages of deduplication, over documents that give each of them something to do."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "texts.jsonl")
        line = " ".join(f"word{number}" for number in range(120)) + "."
        texts = [line, line + " More.", f"{line} {line}", f"Else.\n\n{line}"]
        path.write_text("".join(json.dumps({"text": text, "url": "https://a.org/b"}) + "\n" for text in texts))
        source = {"name": "a", "format": "jsonl", "path": str(path)}
        units: tuple[Unit, ...] = ("line", "paragraph", "sentences")
        for verify, method in ((True, "exact"), (False, "bloom")):
            config = DedupConfig(
                urls=not verify,
                verify=verify,
                lines=LinesConfig(rules=[LineRule(unit=unit) for unit in units], method=method, bloom_megabytes=1),
                substrings=SubstringsConfig(),
            )
            store = Store.at(f"{name}/{method}")
            ingest: Stage[Any] = Ingest(IngestConfig.model_validate({"sources": [source]}), {})
            stages = [ingest]
            refs = {ingest.name: store.ref(ingest.name, ingest.fingerprint())}
            for stage_class in (Signatures, PreferenceOrder, Candidates, Duplicates, Lines, Substrings, Deduplicate):
                stage: Stage[Any] = stage_class(config, refs)
                refs[stage.name] = store.ref(stage.name, stage.fingerprint())
                stages.append(stage)
            for stage in stages:
                run_stage(stage, store, 0)


def _lists() -> None:
    """The kernels that look for lists of words and for evaluation sets, which are read from files."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "en").write_text("mill\n", encoding="utf-8")
        table = pa.table({"text": _texts(), "url": pa.array(["https://a.org/b", None], pa.string())})
        languages = np.array(LANGUAGES, np.object_)
        WordLists(WordListsConfig(path=str(folder))).measure(Batch.of(table, languages))
        (folder / "items.tsv").write_text(f"text\n{TEXTS[0]}\n", encoding="utf-8")
        config = DecontaminateConfig(
            benchmarks=[BenchmarkConfig(name="a", path=str(folder / "items.tsv"), fields=["text"])]
        )
        _, spans = find(_texts(), build_index(config), 0.0, None)
        cut(_texts(), spans, config.cut)


def _tokens() -> None:
    """The kernels of WordPiece and of marks, those of both tokenizers."""
    for tokenizer, _ in (train_tokenizer(TEXTS, 300, "o200k"), train_wordpiece(TEXTS, 300)):
        encoded = load_encoder(tokenizer).encoder.encode(_texts())
        view = utf8_view(_texts())
        spans = load_aligner(tokenizer).spans(_texts(), encoded)
        mark_tokens(view, *text_flags(view, SEGMENTERS["characters"]), encoded.offsets, spans)


def _texts() -> pa.LargeStringArray:
    return pa.array(TEXTS, pa.large_string())  # type: ignore[return-value]


GROUPS = (_privacy, _duplicates, _statistics, _models, _tokens, _lists)
"""The slowest first, so that processes end at about the same time."""


def compile_kernels(processes: int) -> None:
    """Run each kernel once on a few bytes."""
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        for done in [pool.submit(group) for group in GROUPS]:
            done.result()


if __name__ == "__main__":
    started = time.perf_counter()
    compile_kernels(min(len(GROUPS), available_cores()))
    print(f"kernels compiled in {time.perf_counter() - started:.1f} s")
