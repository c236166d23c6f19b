"""The stages that look for repeated text in the documents that stay; `deduplicate` cuts what they find."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from pipeline.dedup.config import DedupConfig
from pipeline.dedup.index import Index
from pipeline.execution import available_cores
from pipeline.repeats.kept import KeptDocuments, KeptInShards
from pipeline.repeats.lines import find_repeated_lines
from pipeline.repeats.spans import SPANS_SCHEMA
from pipeline.repeats.substrings import SubstringFacts, find_repeated_substrings
from pipeline.stage import Stage, StageError, Unit, UnitOutput
from pipeline.text.scan import SCAN_VERSION
from pipeline.text.tables import UNICODE_VERSION

SPAN_GROUP_ROWS = 65_536


class _Repeats(Stage[DedupConfig]):
    """One unit over all documents that stay. `spans` is what to cut, `facts` (JSON) what the search saw."""

    conserves = "signatures"

    def identity(self) -> dict[str, Any]:
        """Return what the output depends on, besides its inputs."""
        section = getattr(self.config, self.name)
        return {**section.identity(), "scan": SCAN_VERSION, "unicode": UNICODE_VERSION}

    def units(self) -> list[Unit]:
        """Return the one unit."""
        kept, text_bytes = self._documents()
        return [Unit(0, f"{kept:,} documents", {}, text_bytes)]

    def _documents(self) -> tuple[int, int]:
        counts = self.inputs["duplicates"].committed().counts
        return counts["kept"], counts["bytes_in"]

    def process(self, unit: Unit, output: UnitOutput) -> None:
        """Write the spans of all documents."""
        scratch = output.scratch / "work"
        scratch.mkdir()
        (duplicates,) = self.inputs["duplicates"].committed().files("duplicates")
        kept = KeptInShards(Index(self.inputs, self.config.within), duplicates, scratch)
        facts: dict[str, Any] = {}
        with output.parquet("spans", SPANS_SCHEMA, SPAN_GROUP_ROWS) as sink:
            for table in self.find(kept, scratch, facts):
                sink.write(table)
        with output.file("facts", ".json") as file:
            file.write(json.dumps(facts, indent=1, sort_keys=True).encode())
        documents, text_bytes = self._documents()
        output.count(read=documents, kept=documents, bytes_in=text_bytes, bytes_out=text_bytes, spans=sink.rows)

    @abstractmethod
    def find(self, kept: KeptDocuments, scratch: Path, facts: dict[str, Any]) -> Iterator[pa.Table]:
        """Yield tables of SPANS_SCHEMA in the order of shards, rows and begins, and fill in facts."""


class Lines(_Repeats):
    """Lines, paragraphs and sentences that stand in other documents, too."""

    name: ClassVar[str] = "lines"
    version: ClassVar[int] = 1

    def find(self, kept: KeptDocuments, scratch: Path, facts: dict[str, Any]) -> Iterator[pa.Table]:
        """Yield the spans, and fill in the facts of each rule."""
        assert self.config.lines is not None
        found = find_repeated_lines(kept, self.config.lines, scratch, available_cores())
        facts["rules"] = found.facts
        for rule in found.facts:
            if rule.get("too_small"):  # it would cut what stands nowhere else
                raise StageError(
                    f"stage 'lines': a Bloom filter of {self.config.lines.bloom_megabytes} MiB would take "
                    f"{rule['false_positives']:.1%} of the units of {rule['rule']} for repeated that are not; give "
                    f"deduplicate.lines.bloom_megabytes {rule['sufficient_megabytes'] * len(found.facts)} or more, or "
                    "take the method exact, which needs disk in place of memory"
                )
        yield from found.tables()


class Substrings(_Repeats):
    """Long spans of words that stand elsewhere, too."""

    name: ClassVar[str] = "substrings"
    version: ClassVar[int] = 1

    def find(self, kept: KeptDocuments, scratch: Path, facts: dict[str, Any]) -> Iterator[pa.Table]:
        """Yield the spans, and fill in what the search saw."""
        assert self.config.substrings is not None
        seen = SubstringFacts()
        yield from find_repeated_substrings(kept, self.config.substrings, scratch, available_cores(), seen)
        facts.update(asdict(seen))
