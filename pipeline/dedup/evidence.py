"""Evidence for verification: the shingle sets and signatures of the documents in candidate pairs, in files on disk."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.dedup.config import DedupConfig
from pipeline.dedup.shingles import shingle_sets
from pipeline.store import File
from pipeline.text.scan import word_hashes

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Evidence:
    """What is known of the documents in question, numbered by ascending rank.

    The two big arrays are memory-mapped files, written in the order of the shards.
    """

    ranks: NDArray[np.uint32]  # (documents,), ascending
    starts: NDArray[np.int64]  # (documents,): where a document's set begins in `shingles`
    sizes: NDArray[np.int64]  # (documents,): distinct shingles
    shingles: NDArray[np.uint32]  # all sets, ascending in each
    rows: NDArray[np.int64]  # (documents,): where a document's signature is in `signatures`
    signatures: NDArray[np.uint32]  # (documents, permutations)

    def numbers(self, ranks: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Numbers of documents given by rank."""
        return np.searchsorted(self.ranks, ranks.astype(np.uint32))


def gather_evidence(
    ranks: NDArray[np.uint32],
    position: NDArray[np.uint32],
    documents: Sequence[File],
    signatures: Sequence[File],
    config: DedupConfig,
    scratch: Path,
    threads: int,
    with_sets: bool = True,
) -> Evidence:
    """Read the text and the signature of each document in `ranks` once, shard by shard, and write both to `scratch`.

    `position` maps ranks to positions; `documents` and `signatures` are shards with the same rows. Without sets the
    text is not read and every set is empty.
    """
    positions = position[ranks].astype(np.int64)
    in_file_order = np.argsort(positions)
    bounds = np.cumsum([0, *(file.rows for file in signatures)])
    cuts = np.searchsorted(positions[in_file_order], bounds)
    sizes = np.zeros(len(ranks), np.int64)

    def read(shard: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint32], NDArray[np.uint32]]:
        numbers = in_file_order[cuts[shard] : cuts[shard + 1]]
        rows = positions[numbers] - bounds[shard]
        set_sizes, sets = np.zeros(len(rows), np.int64), np.empty(0, np.uint32)
        if with_sets:
            set_sizes, sets = _shingle_sets(documents[shard], rows, config.shingle_words)
        return numbers, set_sizes, sets, _signatures(signatures[shard], rows, config.permutations)

    set_file, signature_file = scratch / "shingles.u32", scratch / "signatures.u32"
    shards = np.flatnonzero(np.diff(cuts)).tolist()
    with open(set_file, "wb") as set_stream, open(signature_file, "wb") as signature_stream:
        for numbers, set_sizes, sets, values in _ordered(read, shards, threads):
            sizes[numbers] = set_sizes
            set_stream.write(sets.data)
            signature_stream.write(values.data)
    starts, rows = np.zeros_like(sizes), np.zeros_like(sizes)
    starts[in_file_order] = np.cumsum(sizes[in_file_order]) - sizes[in_file_order]
    rows[in_file_order] = np.arange(len(rows))
    values = _mapped(signature_file).reshape(len(ranks), config.permutations)
    return Evidence(ranks, starts, sizes, _mapped(set_file), rows, values)


def _mapped(path: Path) -> NDArray[np.uint32]:
    if path.stat().st_size == 0:  # cannot be mapped
        return np.empty(0, np.uint32)
    return np.asarray(np.memmap(path, np.uint32, "r"))


def _shingle_sets(file: File, rows: NDArray[np.int64], length: int) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    sizes, sets = [np.empty(0, np.int64)], [np.empty(0, np.uint32)]
    for texts in _selected(file, "text", rows):
        bounds, hashes = shingle_sets(*word_hashes(texts), length)
        sizes.append(np.diff(bounds))
        sets.append(hashes)
    return np.concatenate(sizes), np.concatenate(sets)


def _signatures(file: File, rows: NDArray[np.int64], count: int) -> NDArray[np.uint32]:
    parts = [np.empty((0, count), np.uint32)]
    for column in _selected(file, "signature", rows):
        values = np.frombuffer(column.buffers()[1], np.uint32)
        parts.append(values[column.offset * count : (column.offset + len(column)) * count].reshape(-1, count))
    return np.concatenate(parts)


def _selected(file: File, column: str, rows: NDArray[np.int64]) -> Iterator[pa.Array]:
    """Yield some rows (ascending) of a Parquet column, one row group at a time."""
    with file.parquet() as parquet:
        first = 0
        for group in range(parquet.num_row_groups):
            end = first + parquet.metadata.row_group(group).num_rows
            wanted = rows[np.searchsorted(rows, first) : np.searchsorted(rows, end)] - first
            if len(wanted):
                values = parquet.read_row_group(group, [column], use_threads=False)[column]
                yield pa.concat_arrays(values.chunks).take(pa.array(wanted))
            first = end


def _ordered(function: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """Map on threads, in order, with no more results held than threads are busy."""
    running: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            running.append(pool.submit(function, item))
            if len(running) > threads:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
