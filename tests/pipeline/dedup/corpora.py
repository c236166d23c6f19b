"""Corpora for the tests of deduplication, how they are run, and plain statements of what the kernels compute."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import settings

from pipeline.dedup.config import DedupConfig
from pipeline.dedup.stages import Candidates, Deduplicate, Duplicates, PreferenceOrder, Signatures
from pipeline.documents import DOCUMENT_SCHEMA, document_id
from pipeline.execution import run_stage
from pipeline.stage import Stage, StageConfig, Unit, UnitOutput
from pipeline.store import Committed, StageRef, Store

compiling = settings(deadline=None, derandomize=True)
"""For properties whose first example may wait for a kernel to be compiled."""


class Given(Stage[StageConfig]):
    """Stands where ingest stands: commits tables of documents as they are."""

    name = "ingest"
    version = 1

    def __init__(self, tables: Sequence[pa.Table]) -> None:
        super().__init__(StageConfig(), {})
        self.tables = tables

    def identity(self) -> Any:
        return [table["id"].to_pylist() for table in self.tables]

    def units(self) -> list[Unit]:
        return [Unit(index, f"shard {index}", {}) for index in range(len(self.tables))]

    def process(self, unit: Unit, output: UnitOutput) -> None:
        table = self.tables[unit.index]
        output.write("documents", table, row_group_rows=max(64, len(table) // 8))
        output.count(read=len(table), kept=len(table))


def shard(
    texts: Sequence[str],
    source: str = "web",
    ids: Sequence[str] | None = None,
    dates: Sequence[str | None] | None = None,
) -> pa.Table:
    """A shard of documents, by default with the ids that ingest would give them."""
    nothing = pa.nulls(len(texts), pa.string())
    locators = [str(row) for row in range(len(texts))]
    if ids is None:
        ids = [document_id(source, locator, text.encode()) for locator, text in zip(locators, texts, strict=True)]
    columns = [ids, texts, [source] * len(texts), locators, nothing, dates or nothing, nothing, nothing, nothing]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, DOCUMENT_SCHEMA, strict=True)]
    return pa.table(arrays, schema=DOCUMENT_SCHEMA)


def deduplicate(
    tables: Sequence[pa.Table],
    root: Path,
    config: DedupConfig | None = None,
    workers: int = 0,
    known: Committed | None = None,
) -> dict[str, Committed]:
    """Run all stages over shards and return what each committed; `known` is the `duplicates` of an earlier run."""
    config = config or DedupConfig()
    store = Store.at(root)
    refs: dict[str, StageRef] = {}
    committed: dict[str, Committed] = {}
    earlier = {} if known is None else {"known": StageRef(known.name, known.fingerprint, known.path)}

    def run(stage: Stage[Any], stage_workers: int) -> None:
        refs[stage.name] = store.ref(stage.name, stage.fingerprint())
        committed[stage.name] = run_stage(stage, store, stage_workers)

    run(Given(tables), 0)
    run(Signatures(config, refs.copy()), workers)
    run(PreferenceOrder(config, {**refs, **earlier}), workers)
    run(Candidates(config, {**refs, **earlier}), workers)
    run(Duplicates(config, {**refs, **earlier}), workers)
    run(Deduplicate(config, {name: refs[name] for name in ("ingest", "duplicates")}), workers)
    return committed


def rows(committed: Committed, kind: str) -> list[dict[str, Any]]:
    """All rows of a kind of output."""
    return [row for file in committed.files(kind) for row in file.table().to_pylist()]


def twins(committed: Mapping[str, Committed]) -> dict[str, str]:
    """The twin of each duplicate, by id."""
    return {row["id"]: row["twin"] for row in rows(committed["duplicates"], "duplicates")}


def words(text: str) -> tuple[str, ...]:
    """The words of an ASCII text without apostrophes."""
    return tuple(re.findall(r"[a-z0-9]+", text.lower()))


def shingles(text: str, length: int = 5) -> set[tuple[str, ...]]:
    """The set of word shingles of an ASCII text without apostrophes."""
    found = words(text)
    if not found:
        return set()
    return {found[start : start + length] for start in range(max(1, len(found) - length + 1))}


def covered(text: str, others: set[tuple[str, ...]], length: int = 5) -> float:
    """The share of the words of an ASCII text that lie in one of other shingles."""
    found = words(text)
    marked = [False] * len(found)
    for start in range(max(1, len(found) - length + 1)):
        if found[start : start + length] in others:
            marked[start : start + length] = [True] * len(found[start : start + length])
    return sum(marked) / len(found)


class Writer:
    """Writes random texts over a vocabulary of its own, with the word frequencies of Zipf's law."""

    def __init__(self, seed: int, vocabulary: int = 5000) -> None:
        self.random = np.random.default_rng(seed)
        self.vocabulary = [f"w{number}" for number in range(vocabulary)]
        weights = 1 / np.arange(1, vocabulary + 1)
        self.weights = weights / weights.sum()

    def write(self, length: int) -> list[str]:
        """A text of `length` words."""
        return [self.vocabulary[number] for number in self.random.choice(len(self.vocabulary), length, p=self.weights)]

    def edit(self, text: Sequence[str], share: float) -> list[str]:
        """The text with a share of its words replaced, at random places."""
        edited = list(text)
        for place in self.random.choice(len(edited), round(len(edited) * share), replace=False):
            edited[place] = f"new{self.random.integers(1_000_000)}"
        return edited
