"""The signature index: the documents of a run and of the earlier runs that it is compared with, numbered as one.

A *position* counts documents over the shards of all runs, the oldest run first. A *rank* counts them in the order of
preference, again the oldest run first, so that every known document is preferred to every new one. Both are below
`MOST_DOCUMENTS`. What a run keeps for the next one are its signatures, its ranks and which document stays for which:
no text.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
import pyarrow as pa
from numpy.typing import DTypeLike, NDArray

from pipeline.sql import quoted
from pipeline.store import Committed, File, StageRef, Store, is_local

if TYPE_CHECKING:
    import duckdb

MOST_DOCUMENTS = 2**32
"""Ranks are packed in pairs into 64 bits."""

BATCH_ROWS = 1 << 20

KNOWN = "known"
"""The input under which a stage gets the `duplicates` stage of the run that it is compared with."""

KNOWN_STORE = "known_store"
"""Where the summary of a `duplicates` stage says in which other store that one lies."""


class IndexMismatch(ValueError):
    """An index was made of other documents or with another configuration; the message says which."""


@dataclass(frozen=True)
class Segment:
    """The documents of one run. Its positions and its ranks are those from `start` on."""

    documents: list[File]
    signatures: list[File]
    ingest: str  # fingerprint of the stage that holds the documents
    start: int
    order: Committed | None = None
    duplicates: Committed | None = None

    @property
    def size(self) -> int:
        """Documents, those that went included."""
        return sum(file.rows for file in self.signatures)

    @property
    def end(self) -> int:
        """The first position and rank behind it."""
        return self.start + self.size


class Index:
    """All segments, the one of this run last."""

    def __init__(self, inputs: Mapping[str, StageRef], within: str | None) -> None:
        """Raises IndexMismatch where signatures are of other documents, or made otherwise than those of this run."""
        runs = [*known_runs(inputs.get(KNOWN)), dict(inputs)]
        self.segments: list[Segment] = []
        config = inputs["signatures"].committed().manifest["config"]
        for run in runs:
            signatures = run["signatures"].committed()
            if run is not runs[-1]:
                _check_known(run, config, within)
            documents, files = run["ingest"].committed().files("documents"), signatures.files("signatures")
            if [file.rows for file in documents] != [file.rows for file in files]:
                raise IndexMismatch(f"the signatures at {signatures.path} are of other documents; make them again")
            start = self.segments[-1].end if self.segments else 0
            order = run["order"].committed() if "order" in run else None
            duplicates = run["duplicates"].committed() if run is not runs[-1] else None
            self.segments.append(Segment(documents, files, run["ingest"].fingerprint, start, order, duplicates))
        if self.size >= MOST_DOCUMENTS:
            raise ValueError(f"{self.size} documents are more than one deduplication can rank ({MOST_DOCUMENTS - 1})")

    @property
    def new(self) -> Segment:
        """The documents of this run."""
        return self.segments[-1]

    @property
    def known(self) -> list[Segment]:
        """The documents of earlier runs."""
        return self.segments[:-1]

    @property
    def size(self) -> int:
        """Documents of all segments."""
        return self.segments[-1].end

    def documents(self) -> list[File]:
        """The shards of documents, in the order of positions."""
        return [file for segment in self.segments for file in segment.documents]

    def signatures(self) -> list[File]:
        """The shards of signatures, in the order of positions."""
        return [file for segment in self.segments for file in segment.signatures]


def known_runs(ref: StageRef | None) -> list[dict[str, StageRef]]:
    """The stages of the runs that led to a `duplicates` stage, the oldest first: each names the one before it.

    Raises NotCommitted where one of them is no longer there.
    """
    runs = []
    while ref is not None:
        store = Store(store_root(ref))
        manifest = ref.committed().manifest
        inputs = dict(manifest["inputs"])
        fingerprint = inputs.pop(KNOWN, None)
        runs.append({**{name: store.ref(name, own) for name, own in inputs.items()}, "duplicates": ref})
        store = Store(manifest["summary"].get(KNOWN_STORE, store.root))
        ref = None if fingerprint is None else store.ref("duplicates", fingerprint)
    return runs[::-1]


def store_root(ref: StageRef) -> str:
    """The store that a stage lies in."""
    return ref.path.rsplit("/", 2)[0]


def damaged(inputs: Mapping[str, StageRef]) -> str | None:
    """Name a file of committed inputs, or of the runs before, that is not as long as it was written, and what to do."""
    runs = known_runs(inputs.get(KNOWN))
    for ref in [*inputs.values(), *(ref for run in runs for ref in run.values())]:
        for entry in ref.committed().manifest["files"]:
            filesystem, path = fsspec.core.url_to_fs(f"{ref.path}/{entry['path']}")
            size = filesystem.size(path) if filesystem.exists(path) else None
            if size != entry["bytes"]:
                found = "is missing" if size is None else f"has {size:,} of {entry['bytes']:,} bytes"
                return f"{ref.path}/{entry['path']} {found}; remove {ref.path} and run the recipe that wrote it again"
    return None


def check_known(known: StageRef, signature_identity: Mapping[str, Any], within: str | None) -> None:
    """Raise IndexMismatch where the run of a `duplicates` stage, or one before it, cannot be compared with.

    `signature_identity` is what the signatures of the new documents depend on.
    """
    for run in known_runs(known):
        _check_known(run, signature_identity, within)


def _check_known(run: Mapping[str, StageRef], signature_identity: Mapping[str, Any], within: str | None) -> None:
    signatures, order = run["signatures"].committed(), run["order"].committed()
    if signatures.manifest["config"] != signature_identity:
        differ = [
            name for name, value in signature_identity.items() if signatures.manifest["config"].get(name) != value
        ]
        raise IndexMismatch(
            f"the index at {signatures.path} was made with {_settings(signatures.manifest['config'], differ)}, but the "
            f"new documents have {_settings(signature_identity, differ)}; only signatures of one make can be compared: "
            "give both recipes the same settings and run the earlier one again, or leave out `against`"
        )
    if order.manifest["config"]["within"] != within:
        raise IndexMismatch(
            f"the index at {order.path} was made within {order.manifest['config']['within']!r}, but the new documents "
            f"are compared within {within!r}; both must be the same"
        )


def _settings(config: Mapping[str, Any], names: Sequence[str]) -> str:
    return ", ".join(f"{name} {config.get(name)}" for name in names)


class Column:
    """A number for each document of the index, by position or by rank: files of several runs, mapped, not read."""

    def __init__(self, parts: Sequence[tuple[int, NDArray[Any]]]) -> None:
        """`parts` are starts, ascending, and what lies from there on."""
        self._starts = np.array([start for start, _ in parts])
        self._parts = [values for _, values in parts]

    @classmethod
    def of(cls, segments: Sequence[Segment], stage: str, kind: str, dtype: DTypeLike, scratch: Path) -> Column:
        """The files of a kind that the stages `order` or `duplicates` of segments wrote."""
        parts = []
        for segment in segments:
            committed: Committed | None = getattr(segment, stage)
            assert committed is not None
            parts.append((segment.start, mapped(committed.files(kind)[0], dtype, scratch)))
        return cls(parts)

    def extended(self, start: int, values: NDArray[Any]) -> Column:
        """This column and what lies from `start` on, behind it."""
        return Column([*zip(self._starts.tolist(), self._parts, strict=True), (start, values)])

    def __getitem__(self, at: NDArray[Any]) -> NDArray[Any]:
        """The values at some positions or ranks."""
        if len(self._parts) == 1:
            return self._parts[0][at - at.dtype.type(self._starts[0])]
        part = np.searchsorted(self._starts, at, side="right") - 1
        values = np.empty(len(at), self._parts[0].dtype)
        for number in np.unique(part).tolist():
            here = part == number
            values[here] = self._parts[number][at[here] - at.dtype.type(self._starts[number])]
        return values


def mapped(file: File, dtype: DTypeLike, scratch: Path) -> NDArray[Any]:
    """The numbers of a raw little-endian file, memory-mapped; a remote one is copied to `scratch` first."""
    path = file.path
    if not is_local(path):
        path = str(scratch / f"{file.kind}-{file.sha256[:16]}")
        if not Path(path).exists():
            filesystem, remote = fsspec.core.url_to_fs(file.path)
            filesystem.get_file(remote, path)
    if file.bytes == 0:  # cannot be mapped
        return np.empty(0, dtype)
    return np.asarray(np.memmap(path, dtype, "r", shape=(file.bytes // np.dtype(dtype).itemsize,)))


def scratch_column(path: Path, size: int, dtype: DTypeLike) -> NDArray[Any]:
    """Zeros in a new file, memory-mapped: what exceeds memory, the system writes out.

    Raises OSError where the disk has no room for them.
    """
    with open(path, "wb") as stream:
        if size == 0:  # cannot be mapped
            return np.empty(0, dtype)
        length_bytes = size * np.dtype(dtype).itemsize
        if hasattr(os, "posix_fallocate"):  # a full disk would else end the process when the system writes out
            os.posix_fallocate(stream.fileno(), 0, length_bytes)
        else:
            stream.truncate(length_bytes)
    return np.asarray(np.memmap(path, dtype, "r+", shape=(size,)))


def blocks(start: int, end: int) -> Iterator[NDArray[np.uint32]]:
    """The numbers from `start` to `end`, BATCH_ROWS at a time."""
    for at in range(start, end, BATCH_ROWS):
        yield np.arange(at, min(at + BATCH_ROWS, end), dtype=np.uint32)


class SignatureTable:
    """The signature shards of an index as one out-of-core table, `signatures`, in DuckDB.

    Beside the columns of the shards it has `position`, and where a document lies: `ingest` (fingerprint), `shard` and
    `row`. `fresh` is the part of it that is new.
    """

    def __init__(self, index: Index, scratch: Path, memory_limit_mb: int, threads: int) -> None:
        import duckdb

        self.index = index
        self._folder = tempfile.TemporaryDirectory(dir=scratch, prefix="table-")
        self._connection: duckdb.DuckDBPyConnection = duckdb.connect(
            f"{self._folder.name}/work.duckdb",
            config={
                "memory_limit": f"{memory_limit_mb}MB",
                "threads": threads,
                "temp_directory": f"{self._folder.name}/spill",
                "preserve_insertion_order": False,
            },
        )
        files = index.signatures()
        remote = {fsspec.core.url_to_fs(file.path)[0] for file in files if not is_local(file.path)}
        for filesystem in remote:
            self._connection.register_filesystem(filesystem)
        self.run("SET parquet_metadata_cache = true")  # every band reads the same files
        for name, segments in (("signatures", index.segments), ("fresh", [index.new])):
            self._view(name, segments)

    def _view(self, name: str, segments: Sequence[Segment]) -> None:
        files = [(segment, shard, file) for segment in segments for shard, file in enumerate(segment.signatures)]
        if not files:
            return
        starts = segments[0].start + np.cumsum([0, *(file.rows for _, _, file in files)])[:-1]
        self.run(f"CREATE TABLE {name}_files (file_index UBIGINT, start BIGINT, shard INTEGER, ingest VARCHAR)")
        columns = [
            np.arange(len(files), dtype=np.uint64),
            starts,
            np.array([shard for _, shard, _ in files], np.int32),
            [segment.ingest for segment, _, _ in files],
        ]
        self.insert(f"{name}_files", pa.table(columns, ["file_index", "start", "shard", "ingest"]))
        paths = ", ".join(quoted(file.path) for _, _, file in files)
        self.run(
            f"CREATE VIEW {name} AS SELECT parquet.*, shard, ingest, file_row_number AS row, "
            "start + file_row_number AS position "
            f"FROM read_parquet([{paths}], file_row_number = true) AS parquet JOIN {name}_files USING (file_index)"
        )

    def __enter__(self) -> SignatureTable:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._folder.cleanup()

    def run(self, sql: str) -> None:
        """Run a statement."""
        self._connection.execute(sql)

    def insert(self, table: str, rows: pa.Table) -> None:
        """Append rows to a table."""
        self._connection.register("new_rows", rows)
        self._connection.execute(f"INSERT INTO {table} SELECT * FROM new_rows")
        self._connection.unregister("new_rows")

    def add_known_duplicates(self, segment: Segment, columns: Sequence[str]) -> None:
        """Append what a known run removed to the table `known_duplicates`: positions, and some columns."""
        assert segment.duplicates is not None
        (file,) = segment.duplicates.files("duplicates")
        starts = np.cumsum([segment.start, *(file.rows for file in segment.signatures)])[:-1].tolist()
        self.run(
            f"INSERT INTO known_duplicates SELECT ({[0, *starts]}::BIGINT[])[shard + 2] + row, {', '.join(columns)} "
            f"FROM read_parquet({quoted(file.path)})"
        )

    def stream(self, sql: str) -> Iterator[pa.Table]:
        """Return the answer to a query in tables of BATCH_ROWS rows, the last one apart; others may run meanwhile."""
        with self._connection.cursor() as cursor:  # a connection holds one open result
            reader = cursor.sql(sql).to_arrow_reader(BATCH_ROWS)  # whose batches need not be of that size
            yield from regrouped((pa.Table.from_batches([batch]) for batch in reader), BATCH_ROWS)


def regrouped(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The rows of tables in tables of so many rows, the last one apart."""
    held: list[pa.Table] = []
    missing = rows
    for table in tables:
        held.append(table)
        missing -= len(table)
        while missing <= 0:
            full = pa.concat_tables(held)
            yield full.slice(0, rows)
            held = [full.slice(rows)]
            missing = rows - len(held[0])
    if missing < rows:
        yield pa.concat_tables(held)
