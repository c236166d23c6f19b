"""Lines, paragraphs and sentence spans that repeat across documents, as spans to cut.

Two passes over the text. The first enters every unit under a hash of its normalised words, either into a file that
gives exact answers out of core (`occurrences`) or into a filter of bounded memory (`first_seen`); the second asks for
each unit whether it goes. Both decide by ranks, so that neither the order of shards nor threads can matter.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pipeline.repeats.first_seen import FirstSeen
from pipeline.repeats.kept import KeptDocuments
from pipeline.repeats.line_units import Units, find_units
from pipeline.repeats.occurrences import Occurrences
from pipeline.repeats.parallel import ordered_map
from pipeline.repeats.spans import SPANS_SCHEMA
from pipeline.stage import StageConfig

RULE_NAMES = {"line": "repeated_lines", "paragraph": "repeated_paragraphs", "sentences": "repeated_sentences"}
"""The rules in the ledger, by unit."""


Unit = Literal["line", "paragraph", "sentences"]


class LineRule(StageConfig):
    """What counts as a repeated unit of text, and which of its occurrences go."""

    unit: Unit = Field(
        "line",
        description="What is compared: lines (CCNet, arXiv:1911.00359, section 3.1, which calls them paragraphs), "
        "paragraphs between blank lines, or every span of `sentences` sentences in a row (C4, arXiv:1910.10683, "
        "section 2.2)",
    )
    sentences: int = Field(3, ge=1, le=100, description="Sentences in a span, where unit is `sentences` (C4: 3)")
    minimum_documents: int = Field(
        2,
        ge=1,
        le=10**9,
        description="Documents in which a unit must stand to count as repeated (CCNet: 2); 1 finds what is repeated "
        "within a single document, too (C4)",
    )
    keep: Literal["first", "none"] = Field(
        "first",
        description="What stays of a repeated unit: its first occurrence, in the most preferred document that holds "
        "it, or none, for boilerplate that stands in many documents",
    )
    minimum_words: int = Field(
        5,
        ge=1,
        le=10_000,
        description="Units of fewer words are left alone: headings, list items and answers of one or two words are "
        "the same in many texts that are no copies. 5 is what C4 asks of a line to be text; in scripts without spaces "
        "each letter is a word",
    )
    unify_digits: bool = Field(
        False,
        description="Compare with every digit read as 0 (CCNet does), so that lines which differ in a date or a "
        "number are one",
    )

    @model_validator(mode="after")
    def _something_stays(self) -> LineRule:
        if self.keep == "none" and self.minimum_documents < 2:
            raise ValueError("keep: none with minimum_documents: 1 would cut every unit; ask for 2 documents or more")
        return self

    @property
    def name(self) -> str:
        """The rule in the ledger."""
        return RULE_NAMES[self.unit]

    def identity(self) -> dict[str, Any]:
        """Return what the spans depend on, as JSON."""
        return self.model_dump(mode="json", exclude=set() if self.unit == "sentences" else {"sentences"})


class LinesConfig(StageConfig):
    """Repeated lines, paragraphs and sentences."""

    rules: list[LineRule] = Field(
        min_length=1,
        max_length=16,
        description="Rules, each looked up in the original text; what several of them cut counts for the first",
    )
    method: Literal["exact", "bloom"] = Field(
        "exact",
        description="exact: every occurrence is written to disk, 16 bytes each, and counted out of core; bloom: a "
        "filter in memory and nothing on disk, which finds all that is repeated and, at a rate that the facts tell, "
        "takes something else for repeated, too; where that is over 1 % the stage fails and says what would do",
    )
    bloom_megabytes: int = Field(
        256,
        ge=1,
        le=1 << 20,
        description="Memory of the filters of all rules, in MiB, where method is bloom: about 50 bytes for each "
        "distinct unit keep the rate of false positives below 1 %",
    )
    memory_limit_mb: int = Field(
        1024,
        ge=64,
        description="What the exact method may hold in buffers and tables, in MiB; does not affect the result",
    )

    @model_validator(mode="after")
    def _distinct(self) -> LinesConfig:
        identities = [rule.identity() for rule in self.rules]
        for at, identity in enumerate(identities):
            if identity in identities[:at]:
                raise ValueError(f"rules: number {at + 1} says the same as an earlier one; remove it")
        return self

    def identity(self) -> dict[str, Any]:
        """Return what the spans depend on, as JSON."""
        found: dict[str, Any] = {"rules": [rule.identity() for rule in self.rules], "method": self.method}
        if self.method == "bloom":
            found["bloom_megabytes"] = self.bloom_megabytes
        return found


class RepeatedLines:
    """The repeated units of some documents. `facts` are of each rule, in the order of the configuration."""

    def __init__(self, kept: KeptDocuments, config: LinesConfig, scratch: Path, threads: int) -> None:
        self._kept = kept
        self._rules = config.rules
        self._threads = threads
        self._counters = [_counter(number, kept, config, scratch, threads) for number in range(len(config.rules))]
        for _ in ordered_map(self._enter_shard, range(kept.shards), threads):
            pass
        self.facts: list[dict[str, Any]] = [
            {"rule": rule.name, **rule.identity(), **counter.decide()}
            for rule, counter in zip(self._rules, self._counters, strict=True)
        ]

    def _enter_shard(self, shard: int) -> None:
        for batch in self._kept.read(shard):
            for rule, counter in zip(self._rules, self._counters, strict=True):
                counter.add(shard, _units(batch.texts, rule), batch.ranks)
        for counter in self._counters:
            counter.end_shard(shard)

    def tables(self) -> Iterator[pa.Table]:
        """Yield the spans of each shard that has any, ordered by shard, row, begin, end and rule."""
        for table in ordered_map(self._spans_of_shard, range(self._kept.shards), self._threads):
            if len(table):
                yield table

    def _spans_of_shard(self, shard: int) -> pa.Table:
        asked = [
            (number, rule, counter)
            for number, (rule, counter) in enumerate(zip(self._rules, self._counters, strict=True))
            if counter.any_repeated(shard)
        ]
        parts = [np.empty((4, 0), np.int64)]
        seen = [0] * len(self._rules)
        for batch in self._kept.read(shard) if asked else ():
            for number, rule, counter in asked:
                units = _units(batch.texts, rule)
                goes = np.flatnonzero(counter.repeated(shard, seen[number], units, batch.ranks))
                seen[number] += len(units.hashes)
                rows = batch.rows[np.searchsorted(units.offsets, goes, "right") - 1]
                spans = np.stack([rows, units.begins[goes], units.ends[goes], np.full(len(goes), number)])
                parts.append(_united(spans) if rule.unit == "sentences" else spans)
        return _table(shard, np.concatenate(parts, axis=1), [rule.name for rule in self._rules])


def find_repeated_lines(kept: KeptDocuments, config: LinesConfig, scratch: Path, threads: int) -> RepeatedLines:
    """Find the repeated lines, paragraphs and sentences of documents.

    Enters all text and decides before it returns; the spans are then found shard by shard in a second pass. Temporary
    files go to `scratch`. Raises OSError where they do not fit.
    """
    return RepeatedLines(kept, config, scratch, threads)


def _counter(
    number: int, kept: KeptDocuments, config: LinesConfig, scratch: Path, threads: int
) -> Occurrences | FirstSeen:
    rule = config.rules[number]
    keep_first = rule.keep == "first"
    if config.method == "bloom":
        share = (config.bloom_megabytes << 20) // len(config.rules)
        return FirstSeen(share, rule.minimum_documents, keep_first, kept.documents)
    memory_bytes = config.memory_limit_mb << 20
    path = scratch / f"occurrences-{number}.u64"
    return Occurrences(path, rule.minimum_documents, keep_first, memory_bytes, threads, len(config.rules))


def _units(texts: pa.Array, rule: LineRule) -> Units:
    return find_units(texts, rule.unit, rule.sentences, rule.minimum_words, rule.unify_digits)


def _united(spans: NDArray[np.int64]) -> NDArray[np.int64]:
    """Join the overlapping spans of one rule, (4, spans) in order."""
    rows, begins, ends, _ = spans
    # Spans of as many sentences end in the order in which they begin, so a new one begins beyond the end before it.
    opens = np.ones(len(rows), np.bool_)
    opens[1:] = (rows[1:] != rows[:-1]) | (begins[1:] >= ends[:-1])
    closes = np.append(opens[1:], True)[: len(rows)]
    joined = spans[:, opens].copy()
    joined[2] = ends[closes]
    return joined


def _table(shard: int, spans: NDArray[np.int64], names: list[str]) -> pa.Table:
    """A table of SPANS_SCHEMA from (4, spans) of row, begin, end and number of the rule; equal rows are one."""
    rules = sorted(set(names))
    spans[3] = np.array([rules.index(name) for name in names], np.int64)[spans[3]]
    spans = spans[:, np.lexsort(spans[::-1])]
    again = (spans[:, 1:] == spans[:, :-1]).all(axis=0)
    rows, begins, ends, numbers = spans[:, np.append(True, ~again)[: spans.shape[1]]]
    return pa.table(
        {
            "shard": np.full(len(rows), shard, np.int32),
            "row": rows,
            "begin": begins,
            "end": ends,
            "rule": pa.DictionaryArray.from_arrays(numbers.astype(np.int8), rules).cast(pa.string()),
        },
        schema=SPANS_SCHEMA,
    )
