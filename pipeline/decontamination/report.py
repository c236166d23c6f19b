"""What was found of each benchmark: the report that marks the scores of evaluation."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.decontamination.config import DecontaminateConfig
from pipeline.decontamination.index import Index
from pipeline.store import canonical_json


def benchmark_report(
    config: DecontaminateConfig, identity: Mapping[str, Any], index: Index, matches: Iterable[str]
) -> dict[str, dict[str, Any]]:
    """Facts about each benchmark, from the index and the files of matches, by its name.

    identity: the `index_identity` of the configuration. A benchmark has: config (the name of the entry that made it),
    digest (SHA-256 of that entry's file, or over the digests of its files), rule, action, ngram_words (n, in words),
    items, checked and unchecked (too short; the corpus may hold these), found (items that the corpus had), documents
    (that had one), words (of the longest match of each, summed).
    """
    every, checked = _items(index)
    found, documents, words = _found(matches)
    digests = {entry["name"]: _digest(entry["files"]) for entry in identity["benchmarks"]}
    return {
        name: {
            "config": entry,
            "digest": digests[entry],
            "rule": config.rule,
            "action": config.action,
            "ngram_words": index.benchmark_words[name],
            "items": every[name],
            "checked": checked[name],
            "unchecked": every[name] - checked[name],
            "found": found[name],
            "documents": documents[name],
            "words": words[name],
        }
        for name, entry in index.owners.items()
    }


def _digest(files: list[dict[str, str]]) -> str:
    digests = [file["sha256"] for file in files]
    return digests[0] if len(set(digests)) == 1 else hashlib.sha256(canonical_json(digests).encode()).hexdigest()


def _items(index: Index) -> tuple[Counter[str], Counter[str]]:
    """Items of each benchmark, and those of them with a text that is checked."""
    names = [index.benchmarks[number] for number in index.text_benchmark]
    keys = list(zip(names, index.text_item, strict=True))
    checked = {key for key, words in zip(keys, index.gram_words.tolist(), strict=True) if words > 0}
    return Counter(name for name, _ in set(keys)), Counter(name for name, _ in checked)


def _found(matches: Iterable[str]) -> tuple[Counter[str], Counter[str], Counter[str]]:
    """Items found, documents, and words, of each benchmark. A document's matches are all in one file."""
    items: set[tuple[str, str]] = set()
    documents: Counter[str] = Counter()
    words: Counter[str] = Counter()
    for path in matches:
        with fsspec.open(path, "rb") as stream:
            table = pq.read_table(stream, columns=["id", "benchmark", "item", "words"])
        pairs = table.select(["benchmark", "item"]).group_by(["benchmark", "item"]).aggregate([])
        items.update(zip(pairs["benchmark"].to_pylist(), pairs["item"].to_pylist(), strict=True))
        longest = table.group_by(["id", "benchmark"]).aggregate([("words", "max")])
        for count in pc.value_counts(longest["benchmark"]).to_pylist():
            documents[count["values"]] += count["counts"]
        sums: pa.Table = longest.group_by("benchmark").aggregate([("words_max", "sum")])
        for row in sums.to_pylist():
            words[row["benchmark"]] += row["words_max_sum"]
    return Counter(name for name, _ in items), documents, words
