"""Candidate pairs: bands of the signatures grouped one at a time by DuckDB, which spills to disk what exceeds memory.

Documents are numbered twice. A *position* counts rows over all shards in order; a *rank* counts documents from the most
preferred one down. Everything that decides works on ranks, so the order of shards cannot matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import duckdb
import fsspec
import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.dedup.signatures import band_column
from pipeline.store import File, is_local

PREFERENCES = {
    "longest": "shingles DESC, date ASC NULLS LAST, id, position",
    "earliest": "date ASC NULLS LAST, shingles DESC, id, position",
}
"""Orders of preference, the document that stays first, as SQL over the signature shards."""

MOST_DOCUMENTS = 2**32
"""Ranks are packed in pairs into 64 bits."""

BATCH_ROWS = 1 << 20
_32 = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)


class SignatureTable:
    """The signature shards as one out-of-core table, `signatures`, with columns shard, row and position."""

    def __init__(self, files: Sequence[File], scratch: Path, memory_limit_mb: int, threads: int) -> None:
        self.documents = sum(file.rows for file in files)
        if self.documents >= MOST_DOCUMENTS:
            raise ValueError(
                f"{self.documents} documents are more than one deduplication can rank ({MOST_DOCUMENTS - 1})"
            )
        self._connection = duckdb.connect(
            str(scratch / "duplicates.duckdb"),
            config={
                "memory_limit": f"{memory_limit_mb}MB",
                "threads": threads,
                "temp_directory": str(scratch / "spill"),
                "preserve_insertion_order": False,
            },
        )
        for url in [file.path for file in files if not is_local(file.path)][:1]:
            self._connection.register_filesystem(fsspec.core.url_to_fs(url)[0])
        starts = np.cumsum([0, *(file.rows for file in files)])[:-1]
        self.run("SET parquet_metadata_cache = true")  # every band reads the same files
        self.run("CREATE TABLE shards (file_index UBIGINT, start BIGINT)")
        self.insert("shards", pa.table({"file_index": np.arange(len(files), dtype=np.uint64), "start": starts}))
        paths = ", ".join("'" + file.path.replace("'", "''") + "'" for file in files)
        self.run(
            "CREATE VIEW signatures AS "
            "SELECT parquet.*, file_index AS shard, file_row_number AS row, start + file_row_number AS position "
            f"FROM read_parquet([{paths}], file_row_number = true) AS parquet JOIN shards USING (file_index)"
        )

    def __enter__(self) -> SignatureTable:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def run(self, sql: str) -> None:
        """Run a statement."""
        self._connection.execute(sql)

    def insert(self, table: str, rows: pa.Table) -> None:
        """Append rows to a table."""
        self._connection.register("new_rows", rows)
        self._connection.execute(f"INSERT INTO {table} SELECT * FROM new_rows")
        self._connection.unregister("new_rows")

    def stream(self, sql: str) -> Iterator[pa.Table]:
        """Return the answer to a query in tables of BATCH_ROWS rows, the last one apart; others may run meanwhile."""
        with self._connection.cursor() as cursor:  # a connection holds one open result
            held: list[pa.RecordBatch] = []
            rows = 0
            for batch in cursor.sql(sql).to_arrow_reader(BATCH_ROWS):  # whose batches need not be of that size
                held.append(batch)
                rows += len(batch)
                while rows >= BATCH_ROWS:
                    table = pa.Table.from_batches(held)
                    yield table.slice(0, BATCH_ROWS)
                    held, rows = table.slice(BATCH_ROWS).to_batches(), rows - BATCH_ROWS
            if rows:
                yield pa.Table.from_batches(held)


def preference_order(signatures: SignatureTable, prefer: str) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Positions by rank, and ranks by position, both uint32 (documents,)."""
    position = np.empty(signatures.documents, np.uint32)
    filled = 0
    for table in signatures.stream(f"SELECT position FROM signatures ORDER BY {PREFERENCES[prefer]}"):
        position[filled : filled + len(table)] = table["position"].to_numpy()
        filled += len(table)
    assert filled == signatures.documents
    rank = np.empty_like(position)
    rank[position] = np.arange(len(position), dtype=np.uint32)
    return position, rank


def shared_keys(
    signatures: SignatureTable, key: str, rank: NDArray[np.uint32]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint32]]]:
    """Groups of two or more documents that agree in a column of `signatures`; null is in no group.

    Yields whole groups, many at a time: bounds (groups + 1,) into the ranks of their members, ascending in each group.
    """
    held: pa.Table | None = None
    for table in signatures.stream(
        f"SELECT {key} AS key, position FROM signatures WHERE {key} IN "
        f"(SELECT {key} FROM signatures GROUP BY {key} HAVING count(*) > 1) ORDER BY key"
    ):
        if held is not None:
            table = pa.concat_tables([held, table])
        keys = table["key"].combine_chunks()
        changes = 1 + np.flatnonzero(pc.not_equal(keys[1:], keys[:-1]).to_numpy(zero_copy_only=False))
        last = int(changes[-1]) if len(changes) else 0  # what follows may go on in the next batch
        held = table[last:]
        if last:
            yield _ascending(np.concatenate([[0], changes]), rank[table["position"].to_numpy()[:last]])
    if held is not None and len(held):
        yield _ascending(np.array([0, len(held)]), rank[held["position"].to_numpy()])


def _ascending(bounds: NDArray[np.int64], ranks: NDArray[np.uint32]) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    group = np.repeat(np.arange(len(bounds) - 1, dtype=np.uint64), np.diff(bounds))
    return bounds, np.sort((group << _32) | ranks).astype(np.uint32)


def exact_representatives(signatures: SignatureTable, rank: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Rank of the most preferred document of the same digest, by rank: a document's own where none is preferred."""
    representative = np.arange(len(rank), dtype=np.uint32)
    for bounds, ranks in shared_keys(signatures, "digest", rank):
        representative[ranks] = np.repeat(ranks[bounds[:-1]], np.diff(bounds))
    return representative


@numba.njit(nogil=True, cache=True)
def bucket_pairs(
    bounds: NDArray[np.int64], ranks: NDArray[np.uint32], left_out: NDArray[np.bool_], representatives: int
) -> NDArray[np.uint64]:
    """Pair each member of a bucket with the first and with its nearest predecessors, `representatives` at most.

    `bounds` and `ranks` are what `shared_keys` yields, `left_out` (documents,) marks ranks to pass over. A pair is
    member << 32 | other, the other being the more preferred. A bucket of at most representatives + 1 gives all pairs.
    """
    members = np.empty(len(ranks), np.uint32)
    pairs = np.empty(0, np.uint64)
    for counting in (True, False):
        count = 0
        for group in range(len(bounds) - 1):
            size = 0
            for at in range(bounds[group], bounds[group + 1]):
                if not left_out[ranks[at]]:
                    members[size] = ranks[at]
                    size += 1
            for place in range(1, size):
                if counting:
                    count += min(place, representatives)
                    continue
                member = np.uint64(members[place]) << _32
                pairs[count] = member | np.uint64(members[0])
                count += 1
                for other in range(max(1, place - representatives + 1), place):
                    pairs[count] = member | np.uint64(members[other])
                    count += 1
        if counting:
            pairs = np.empty(count, np.uint64)
    return pairs


def collect_pairs(
    signatures: SignatureTable, bands: int, rank: NDArray[np.uint32], left_out: NDArray[np.bool_], representatives: int
) -> NDArray[np.bool_]:
    """Write the pairs of all bands into a table of `signatures` and return which ranks occur in one, (documents,)."""
    signatures.run("CREATE TABLE pairs (pair UBIGINT)")
    occurs = np.zeros(len(rank), np.bool_)
    for band in range(bands):
        for bounds, ranks in shared_keys(signatures, band_column(band), rank):
            pairs = bucket_pairs(bounds, ranks, left_out, representatives)
            occurs[pairs >> _32] = True
            occurs[pairs & _LOW] = True
            signatures.insert("pairs", pa.table({"pair": pairs}))
    return occurs


def candidate_pairs(signatures: SignatureTable) -> Iterator[NDArray[np.uint64]]:
    """Yield the distinct pairs in ascending order; all pairs of one member come together."""
    held = np.empty(0, np.uint64)
    for table in signatures.stream("SELECT DISTINCT pair FROM pairs ORDER BY pair"):
        pairs = np.concatenate([held, table["pair"].to_numpy()])
        cut = int(np.searchsorted(pairs, pairs[-1] >> _32 << _32))
        held = pairs[cut:]
        yield pairs[:cut]
    yield held
