"""Ingest, the first stage: the files of the sources become shards of documents, and ledger rows for all that do not.

One work unit gives one shard, so a shard holds one source. The stage is identified by what it reads, the SHA-256 of
each file, and never by where the files lie.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import pyarrow as pa

from pipeline.documents import DOCUMENT_SCHEMA, document_id
from pipeline.sources import Dropped, IngestConfig, InputFile, Item, Record, plan_units, read_unit, source_files
from pipeline.sources.digests import sha256_of
from pipeline.stage import Stage, Unit, UnitOutput

BATCH_BYTES = 4 << 20


class Ingest(Stage[IngestConfig]):
    """Read every source into documents."""

    name: ClassVar[str] = "ingest"
    version: ClassVar[int] = 1

    @cached_property
    def files(self) -> list[list[InputFile]]:
        """The files of each source. Raises ValueError, naming source and path, where a path means no file."""
        return [source_files(source) for source in self.config.sources]

    @cached_property
    def digests(self) -> list[list[str]]:
        """The SHA-256 of each file of each source, as the files were when the run began."""
        return [sha256_of(files) for files in self.files]

    def identity(self) -> dict[str, Any]:
        """Return the configuration without paths, and the name, size and SHA-256 of every file."""
        sources = []
        for source, files, digests in zip(self.config.sources, self.files, self.digests, strict=True):
            described = [
                {"name": file.name, "bytes": file.size, "sha256": digest}
                for file, digest in zip(files, digests, strict=True)
            ]
            sources.append({**source.model_dump(mode="json", exclude={"path"}), "files": described})
        return {**self.config.model_dump(mode="json", exclude={"sources"}), "sources": sources}

    def units(self) -> list[Unit]:
        """Return the units of all sources, in the order of the sources and of their files."""
        config = self.config
        plans = [
            plan
            for source, files in zip(config.sources, self.files, strict=True)
            for plan in plan_units(source, files, config.unit_bytes, config.limits)
        ]
        return [Unit(index, plan.name, plan.spec, plan.weight) for index, plan in enumerate(plans)]

    def process(self, unit: Unit, output: UnitOutput) -> None:
        """Write one shard of documents, and a ledger row for each record that is none."""
        source = unit.spec["source"]["name"]
        with output.parquet("documents", DOCUMENT_SCHEMA) as sink:
            for batch in _batches(source, read_unit(unit.spec)):
                if batch.documents["id"]:
                    sink.write(pa.table(batch.documents, schema=DOCUMENT_SCHEMA))
                output.ledger(batch.ledger)
                output.count(**batch.counts())


@dataclass(slots=True)
class _Batch:
    """Documents as columns, and ledger rows, of some MiB of text."""

    source: str
    documents: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in DOCUMENT_SCHEMA.names})
    ledger: list[dict[str, Any]] = field(default_factory=list)
    text_bytes: int = 0
    dropped_bytes: int = 0

    def add(self, item: Item) -> None:
        if isinstance(item, Record) and not item.text:
            item = Dropped(item.locator, "empty", "", "there is no text" + (f" at {item.url}" if item.url else ""))
        if isinstance(item, Record):
            text = item.text.encode()
            self.text_bytes += len(text)
            values = (
                *(document_id(self.source, item.locator, text), item.text, self.source, item.locator, item.url),
                *(item.date, item.license, item.language, item.metadata),
            )
            for column, value in zip(self.documents.values(), values, strict=True):
                column.append(value)
            return
        row: dict[str, Any] = {"source": self.source, "rule": item.rule, "value": item.value}
        row["detail"] = f"{item.locator}: {item.detail}"
        if isinstance(item, Dropped):
            text = item.text.encode("utf-8", "replace")
            self.dropped_bytes += len(text)
            row |= {"action": "dropped", "id": document_id(self.source, item.locator, text), "bytes": len(text)}
        else:
            row |= {"action": "rejected", "threshold": item.threshold}
        self.ledger.append(row)

    def counts(self) -> dict[str, int]:
        kept = len(self.documents["id"])
        dropped = sum(row["action"] == "dropped" for row in self.ledger)
        return {
            "read": kept + dropped,
            "kept": kept,
            "dropped": dropped,
            "rejected": len(self.ledger) - dropped,
            "bytes_in": self.text_bytes + self.dropped_bytes,
            "bytes_out": self.text_bytes,
        }

    @property
    def full(self) -> bool:
        return self.text_bytes + self.dropped_bytes >= BATCH_BYTES or len(self.ledger) >= 10_000


def _batches(source: str, items: Iterator[Item]) -> Iterator[_Batch]:
    batch = _Batch(source)
    for item in items:
        batch.add(item)
        if batch.full:
            yield batch
            batch = _Batch(source)
    yield batch
