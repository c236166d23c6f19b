"""Evidence for verification: the shingles and signatures of the documents in candidate pairs, in files on disk."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.dedup.config import DedupConfig
from pipeline.dedup.shingles import PROOF, shingle_hashes
from pipeline.store import File
from pipeline.text.scan import word_hashes

EMPTY = np.uint32(0xFFFFFFFF)
"""A free slot of a table; no shingle."""

_32 = np.uint64(32)


@dataclass(frozen=True)
class Evidence:
    """What is known of the documents in question, numbered by ascending rank.

    The two big arrays are memory-mapped files. The record of a document in `records` is its shingles in text order,
    repetitions included, and then the hash table of them (`table_slots` says how long). Where a record or a signature
    lies in its file depends on which thread came first; nothing else does.
    """

    shingle_words: int
    ranks: NDArray[np.uint32]  # (documents,), ascending
    starts: NDArray[np.int64]  # (documents,): where a document's record begins in `records`
    shingles: NDArray[np.int64]  # (documents,): repetitions included
    distinct: NDArray[np.int64]  # (documents,): distinct shingles
    records: NDArray[np.uint32]
    rows: NDArray[np.int64]  # (documents,): where a document's signature is in `signatures`
    signatures: NDArray[np.uint32]  # (documents, permutations)

    def numbers(self, ranks: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Numbers of documents given by rank."""
        return np.searchsorted(self.ranks, ranks.astype(np.uint32))


# A table is buckets of a few slots, filled from the first: what a full bucket does not take goes to the next one. All
# slots of a bucket are compared, as a branch on where the shingle is could not be predicted.
_BUCKET = 8
_WIDTH = np.uint64(_BUCKET)
_ONE = np.uint64(1)


@numba.njit(nogil=True, cache=True, inline="always")
def table_slots(shingles: int) -> int:
    """Slots in the table of a document: at most two thirds are taken, at least one is free."""
    return _BUCKET * ((shingles + shingles // 2) // _BUCKET + 1)


@numba.njit(nogil=True, cache=True)
def _insert(table: NDArray[np.uint32], shingle: np.uint32) -> int:
    buckets = np.uint64(len(table)) // _WIDTH
    bucket = (np.uint64(shingle) * buckets) >> _32
    while True:
        present = False
        taken = np.uint64(0)
        for slot in range(_BUCKET):
            held = table[bucket * _WIDTH + np.uint64(slot)]
            present |= held == shingle
            taken += np.uint64(held != EMPTY)
        if present:
            return 0
        if taken < _WIDTH:
            table[bucket * _WIDTH + taken] = shingle
            return 1
        bucket = bucket + _ONE if bucket + _ONE < buckets else np.uint64(0)


@numba.njit(nogil=True, cache=True)
def holds(table: NDArray[np.uint32], shingle: np.uint32) -> bool:
    """Whether a document's table holds a shingle."""
    buckets = np.uint64(len(table)) // _WIDTH
    bucket = (np.uint64(shingle) * buckets) >> _32
    while True:
        present = False
        for slot in range(_BUCKET):
            present |= table[bucket * _WIDTH + np.uint64(slot)] == shingle
        if present or table[bucket * _WIDTH + _WIDTH - _ONE] == EMPTY:
            return present
        bucket = bucket + _ONE if bucket + _ONE < buckets else np.uint64(0)


@numba.njit(nogil=True, cache=True)
def _write_records(
    offsets: NDArray[np.int64],
    hashes: NDArray[np.uint32],
    starts: NDArray[np.int64],
    distinct: NDArray[np.int64],
    records: NDArray[np.uint32],
) -> None:
    records[:] = EMPTY
    for document in range(len(offsets) - 1):
        size = offsets[document + 1] - offsets[document]
        shingles = records[starts[document] : starts[document] + size]
        table = records[starts[document] + size : starts[document] + size + table_slots(size)]
        for at in range(size):
            shingles[at] = min(hashes[offsets[document] + at], EMPTY - np.uint32(1))
            distinct[document] += _insert(table, shingles[at])


def shingle_records(
    offsets: NDArray[np.int64], hashes: NDArray[np.uint32]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint32]]:
    """Records as `Evidence` holds them: their starts, the distinct shingles of each, and the records themselves.

    `offsets` and `hashes` are what `shingle_hashes` returns. The last of the 2^32 hashes counts as the one before it.
    """
    sizes = np.diff(offsets)
    bounds = np.concatenate([[0], np.cumsum(sizes + _BUCKET * ((sizes + sizes // 2) // _BUCKET + 1))])
    distinct = np.zeros(len(sizes), np.int64)
    records = np.empty(bounds[-1], np.uint32)
    _write_records(offsets, hashes, bounds[:-1], distinct, records)
    return bounds[:-1], distinct, records


def gather_evidence(
    ranks: NDArray[np.uint32],
    positions: NDArray[np.int64],
    documents: Sequence[File],
    signatures: Sequence[File],
    config: DedupConfig,
    scratch: Path,
    threads: int,
    with_sets: bool = True,
) -> Evidence:
    """Read the text and the signature of each document in `ranks` (ascending) once and write both to `scratch`.

    `positions` (as `ranks`) count rows over the concatenated shards; `documents` and `signatures` are shards with the
    same rows. A thread reads a shard at a time and holds one row group of it. Without sets the text is not read and no
    document has shingles.
    """
    in_file_order = np.argsort(positions)
    bounds = np.cumsum([0, *(file.rows for file in signatures)])
    cuts = np.searchsorted(positions[in_file_order], bounds)
    starts, shingles, distinct, rows = (np.zeros(len(ranks), np.int64) for _ in range(4))
    record_file, signature_file = scratch / "records.u32", scratch / "signatures.u32"

    with open(record_file, "wb") as record_stream, open(signature_file, "wb") as signature_stream:
        all_records, all_signatures = _Appended(record_stream), _Appended(signature_stream)

        def read(shard: int) -> None:
            numbers = in_file_order[cuts[shard] : cuts[shard + 1]]
            wanted = positions[numbers] - bounds[shard]
            if with_sets:
                for part, texts in _selected(documents[shard], "text", wanted):
                    offsets, hashes = shingle_hashes(*word_hashes(texts), config.shingle_words, PROOF)
                    of_part = numbers[part]
                    shingles[of_part] = np.diff(offsets)
                    begins, distinct[of_part], records = shingle_records(offsets, hashes)
                    starts[of_part] = begins + all_records.append(records)
            for part, column in _selected(signatures[shard], "signature", wanted):
                values = np.frombuffer(column.buffers()[1], np.uint32)
                values = values[column.offset * config.permutations :][: len(column) * config.permutations]
                first = all_signatures.append(values) // config.permutations
                rows[numbers[part]] = np.arange(first, first + len(column))

        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(read, np.flatnonzero(np.diff(cuts)).tolist()):
                pass
    values = _mapped(signature_file).reshape(len(ranks), config.permutations)
    return Evidence(config.shingle_words, ranks, starts, shingles, distinct, _mapped(record_file), rows, values)


class _Appended:
    """A file of uint32 values to which several threads append."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._length = 0

    def append(self, values: NDArray[np.uint32]) -> int:
        """Write values and return how many came before them."""
        with self._lock:
            start = self._length
            self._stream.write(values.data)
            self._length += len(values)
        return start


def _mapped(path: Path) -> NDArray[np.uint32]:
    if path.stat().st_size > 0:
        return np.asarray(np.memmap(path, np.uint32, "r"))
    nothing = np.empty(0, np.uint32)  # an empty file cannot be mapped
    nothing.flags.writeable = False  # as what is mapped: Numba compiles the two apart
    return nothing


def _selected(file: File, column: str, rows: NDArray[np.int64]) -> Iterator[tuple[slice, pa.Array]]:
    """Yield some rows (ascending) of a Parquet column, one row group at a time, and which of `rows` they are."""
    with file.parquet() as parquet:
        first = 0
        for group in range(parquet.num_row_groups):
            end = first + parquet.metadata.row_group(group).num_rows
            part = slice(*np.searchsorted(rows, [first, end]))
            if part.start < part.stop:
                values = parquet.read_row_group(group, [column], use_threads=False)[column]
                yield part, pa.concat_arrays(values.chunks).take(pa.array(rows[part] - first))
            first = end
