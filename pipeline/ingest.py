"""Ingest, the first stage: the files of the sources become shards of documents, and ledger rows for all that do not.

One work unit gives one shard, so a shard holds one source. The stage is identified by what it reads, the SHA-256 of
each file, and never by where the files lie.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.documents import DOCUMENT_SCHEMA, document_id, document_ids
from pipeline.sources import Dropped, Found, IngestConfig, InputFile, Item, Record, plan_units, read_unit, source_files
from pipeline.sources.digests import sha256_of
from pipeline.sources.records import RECORD_SCHEMA
from pipeline.stage import Stage, Unit, UnitOutput

BATCH_BYTES = 4 << 20
LEDGER_ROWS = 10_000


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
                documents = batch.documents()
                if len(documents):
                    sink.write(documents)
                output.ledger(batch.ledger)
                output.count(**batch.counts())


class _Batch:
    """Documents as columns, and ledger rows, of some MiB of text."""

    def __init__(self, source: str) -> None:
        self.ledger: list[dict[str, Any]] = []
        self._source = source
        self._columns: list[pa.RecordBatch] = []
        self._records: list[Record] = []  # found one by one, behind those in the columns
        self._text_bytes = self._dropped_bytes = 0

    def add(self, item: Item) -> None:
        if isinstance(item, Record) and not item.text:
            item = Dropped(item.locator, "empty", "", "there is no text" + (f" at {item.url}" if item.url else ""))
        if isinstance(item, Record):
            self._text_bytes += len(item.text.encode())
            self._records.append(item)
            return
        row: dict[str, Any] = {"source": self._source, "rule": item.rule, "value": item.value}
        row["detail"] = f"{item.locator}: {item.detail}"
        if isinstance(item, Dropped):
            text = item.text.encode("utf-8", "replace")
            self._dropped_bytes += len(text)
            row |= {"action": "dropped", "id": document_id(self._source, item.locator, text), "bytes": len(text)}
        else:
            row |= {"action": "rejected", "threshold": item.threshold}
        self.ledger.append(row)

    def add_columns(self, columns: pa.RecordBatch) -> int:
        """Add records until the batch is full, and return how many there was room for."""
        ends = np.cumsum(pc.binary_length(columns["text"]).to_numpy())
        room = BATCH_BYTES - self._text_bytes - self._dropped_bytes
        taken = min(int(np.searchsorted(ends, room)) + 1, columns.num_rows)
        self._flush()
        self._columns.append(columns.slice(0, taken))
        self._text_bytes += int(ends[taken - 1])
        return taken

    def _flush(self) -> None:
        if self._records:
            columns = [[getattr(record, name) for record in self._records] for name in RECORD_SCHEMA.names]
            arrays = [pa.array(values, field.type) for values, field in zip(columns, RECORD_SCHEMA, strict=True)]
            self._columns.append(pa.record_batch(arrays, schema=RECORD_SCHEMA))
            self._records = []

    def documents(self) -> pa.RecordBatch:
        """Return the documents, with their ids."""
        self._flush()
        if not self._columns:
            return pa.RecordBatch.from_pylist([], DOCUMENT_SCHEMA)
        records = pa.concat_batches(self._columns) if len(self._columns) > 1 else self._columns[0]
        ids = document_ids(self._source, records["locator"].to_pylist(), records["text"])
        source = pa.repeat(self._source, len(records))
        added = {"id": ids, "source": source}
        columns = [added[name] if name in added else records[name] for name in DOCUMENT_SCHEMA.names]
        return pa.record_batch(columns, schema=DOCUMENT_SCHEMA)

    def counts(self) -> dict[str, int]:
        kept = sum(map(len, self._columns)) + len(self._records)
        dropped = sum(row["action"] == "dropped" for row in self.ledger)
        return {
            "read": kept + dropped,
            "kept": kept,
            "dropped": dropped,
            "rejected": len(self.ledger) - dropped,
            "bytes_in": self._text_bytes + self._dropped_bytes,
            "bytes_out": self._text_bytes,
        }

    @property
    def full(self) -> bool:
        return self._text_bytes + self._dropped_bytes >= BATCH_BYTES or len(self.ledger) >= LEDGER_ROWS


def _batches(source: str, found: Iterator[Found]) -> Iterator[_Batch]:
    batch = _Batch(source)
    for item in found:
        if isinstance(item, pa.RecordBatch):
            done = 0
            while done < len(item):
                done += batch.add_columns(item.slice(done))
                if batch.full:
                    yield batch
                    batch = _Batch(source)
            continue
        batch.add(item)
        if batch.full:
            yield batch
            batch = _Batch(source)
    yield batch
