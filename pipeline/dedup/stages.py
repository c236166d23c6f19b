"""The three stages of deduplication: signatures of each shard, decisions over all of them, removal from each shard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import PurePosixPath
from typing import Any

import duckdb
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.dedup.config import DedupConfig
from pipeline.dedup.decisions import DUPLICATES_SCHEMA, EXACT, find_duplicates
from pipeline.dedup.signatures import signature_schema, signature_table
from pipeline.documents import DOCUMENT_SCHEMA
from pipeline.execution import available_cores
from pipeline.stage import Stage, StageError, Unit, UnitOutput
from pipeline.store import File, StageRef
from pipeline.text.scan import SCAN_VERSION
from pipeline.text.tables import UNICODE_VERSION

SIGNATURE_GROUP_ROWS = 16_384  # 7 MB of signatures at 112 permutations
DUPLICATE_GROUP_ROWS = 65_536

EXACT_RULE, NEAR_RULE = "exact_duplicate", "near_duplicate"
"""The rules in the ledger."""


class Signatures(Stage[DedupConfig]):
    """Digest, shingle count, MinHash signature and band keys of each document, in document order."""

    name = "signatures"
    version = 1
    conserves = "ingest"

    def identity(self) -> dict[str, Any]:
        """Return what the output depends on, besides its inputs."""
        return {**self.config.signature_identity(), "scan": SCAN_VERSION, "unicode": UNICODE_VERSION}

    def units(self) -> list[Unit]:
        """Return one unit for each shard of documents."""
        return _shard_units(self.inputs["ingest"])

    def process(self, unit: Unit, output: UnitOutput) -> None:
        """Write the signatures of a shard."""
        tables = []
        with File(**unit.spec["file"]).parquet() as parquet:
            for group in range(parquet.num_row_groups):
                documents = parquet.read_row_group(group, ["id", "source", "date", "text"])
                tables.append(signature_table(documents, self.config))
        signatures = pa.concat_tables([signature_schema(self.config).empty_table(), *tables])
        output.write("signatures", signatures, SIGNATURE_GROUP_ROWS)
        text_bytes = pc.sum(signatures["text_bytes"]).as_py() or 0
        output.count(
            read=len(signatures),
            kept=len(signatures),
            bytes_in=text_bytes,
            bytes_out=text_bytes,
            shingles=pc.sum(signatures["shingles"]).as_py() or 0,
        )


class Duplicates(Stage[DedupConfig]):
    """Which documents are duplicates of which: one unit over all signatures. Removes nothing itself."""

    name = "duplicates"
    version = 1
    conserves = "signatures"

    def identity(self) -> dict[str, Any]:
        """Return what the output depends on, besides its inputs."""
        return self.config.decision_identity()

    def units(self) -> list[Unit]:
        """Return the one unit."""
        files = self.inputs["signatures"].committed().files("signatures")
        return [Unit(0, f"{sum(file.rows for file in files):,} signatures", {}, sum(file.bytes for file in files))]

    def process(self, unit: Unit, output: UnitOutput) -> None:
        """Decide over all documents; raises ValueError where the signatures do not fit them or the configuration."""
        committed = self.inputs["signatures"].committed()
        made_with = {name: committed.manifest["config"][name] for name in self.config.signature_identity()}
        if made_with != self.config.signature_identity():
            raise ValueError(
                f"the signatures at {committed.path} were made with {made_with}, "
                f"but duplicates are looked for with {self.config.signature_identity()}; make them again"
            )
        documents = self.inputs["ingest"].committed().files("documents")
        signatures = committed.files("signatures")
        if [file.rows for file in documents] != [file.rows for file in signatures]:
            raise ValueError(f"the signatures at {committed.path} are of other documents; make them again")
        scratch = output.scratch / "work"
        scratch.mkdir()
        exact = near = 0
        with output.parquet("duplicates", DUPLICATES_SCHEMA, DUPLICATE_GROUP_ROWS) as sink:
            try:
                for rows in find_duplicates(documents, signatures, self.config, scratch, available_cores()):
                    sink.write(rows)
                    copies = pc.sum(pc.equal(rows["rule"], EXACT)).as_py()
                    exact += copies
                    near += len(rows) - copies
            except (duckdb.OutOfMemoryException, duckdb.IOException) as error:
                raise StageError(
                    f"stage 'duplicates': DuckDB could not group the signatures: {error}. It may hold "
                    f"{self.config.memory_limit_mb} MB of memory (memory_limit_mb) and spills to {scratch}: "
                    "give it more of the one or of the other and start again"
                ) from error
        read = committed.counts["kept"]
        text_bytes = committed.counts["bytes_in"]
        output.count(read=read, kept=read, bytes_in=text_bytes, bytes_out=text_bytes)
        output.count(exact_duplicates=exact, near_duplicates=near)


class Deduplicate(Stage[DedupConfig]):
    """The documents without the duplicates, in their order, and a ledger row with the twin for each that went."""

    name = "deduplicate"
    version = 1
    conserves = "ingest"

    def identity(self) -> dict[str, Any]:
        """Return what the output depends on, besides its inputs."""
        return {}  # every decision is made, and so every threshold counted, in `duplicates`

    def units(self) -> list[Unit]:
        """Return one unit for each shard of documents."""
        return _shard_units(self.inputs["ingest"])

    def process(self, unit: Unit, output: UnitOutput) -> None:
        """Write what stays of a shard, and the ledger of what goes."""
        committed = self.inputs["duplicates"].committed()
        config = committed.manifest["config"]
        duplicates = _duplicates_of_shard(committed.files("duplicates")[0], unit.index)
        gone_rows = duplicates["row"].to_numpy()
        with output.parquet("documents", DOCUMENT_SCHEMA) as sink, File(**unit.spec["file"]).parquet() as parquet:
            first = 0
            for group in range(parquet.num_row_groups):
                documents = parquet.read_row_group(group)
                start, stop = np.searchsorted(gone_rows, [first, first + len(documents)])
                keep = np.ones(len(documents), np.bool_)
                keep[gone_rows[start:stop] - first] = False
                gone, kept = documents.filter(pa.array(~keep)), documents.filter(pa.array(keep))
                decided = duplicates.slice(start, stop - start)
                if not gone["id"].equals(decided["id"]):
                    raise ValueError(f"the duplicates at {committed.path} are of other documents; find them again")
                sink.write(kept)
                output.ledger(_ledger_rows(gone, decided, config))
                output.count(
                    read=len(documents),
                    kept=len(kept),
                    dropped=len(gone),
                    bytes_in=_text_bytes(documents),
                    bytes_out=_text_bytes(kept),
                )
                first += len(documents)


def _shard_units(ingest: StageRef) -> list[Unit]:
    """Return one unit for each shard of documents, in order."""
    return [
        Unit(index, f"{PurePosixPath(file.path).name} ({file.rows:,} documents)", {"file": asdict(file)}, file.bytes)
        for index, file in enumerate(ingest.committed().files("documents"))
    ]


def _duplicates_of_shard(file: File, shard: int) -> pa.Table:
    """Read the decisions over one shard, in order; row groups of other shards are skipped by their statistics."""
    filesystem, path = fsspec.core.url_to_fs(file.path)
    return pq.read_table(path, filesystem=filesystem, filters=[("shard", "==", shard)]).combine_chunks()


def _ledger_rows(gone: pa.Table, duplicates: pa.Table, config: Mapping[str, Any]) -> pa.Table:
    exact = pc.equal(duplicates["rule"], EXACT)
    verified = duplicates["containment"].is_valid()
    threshold = pa.scalar(config["containment"], pa.float64())
    return pa.table(
        {
            "id": duplicates["id"],
            "source": duplicates["source"],
            "action": pa.repeat("dropped", len(duplicates)),
            "rule": pc.if_else(exact, EXACT_RULE, NEAR_RULE),
            # Without verification only the estimate is known, and the bands have no sharp threshold.
            "value": pc.coalesce(duplicates["containment"], duplicates["estimated"]),
            "threshold": pc.if_else(exact, 1.0, pc.if_else(verified, threshold, None)),
            "twin": duplicates["twin"],
            "bytes": pc.binary_length(gone["text"]),
        }
    )


def _text_bytes(documents: pa.Table) -> int:
    return pc.sum(pc.binary_length(documents["text"])).as_py() or 0
