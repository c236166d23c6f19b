"""Buckets: the documents that agree in a key, grouped by DuckDB, which spills to disk what exceeds memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.dedup.index import Column, SignatureTable

TABLES: Final = ("signatures", "fresh")

PAIRS = 1 << 20
"""The most pairs in memory."""

_32 = np.uint64(32)


def buckets(
    signatures: SignatureTable, key: str, ranks: Column, scopes: Column | None, tables: tuple[str, str] = TABLES
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint32]]]:
    """Buckets of documents that agree in a column, where two or more do and one of them is new.

    `tables` names the table with the column and `position`, and the part of it that is new. A null is in no bucket.
    With `scopes`, the documents of a bucket agree in those (by position), too, and it may hold known ones alone, or
    one. Yields whole buckets, many at a time: bounds (buckets + 1,) into the ranks of their members, ascending in each
    bucket. Memory holds one batch and the largest bucket.
    """
    every, fresh = tables
    asked = f"WHERE {key} IN (SELECT {key} FROM {fresh})" if signatures.index.known else ""
    held: list[pa.Table] = []  # the rows of the last key, which may go on in the next batch
    for table in signatures.stream(
        f"SELECT {key} AS key, position FROM {every} WHERE {key} IN "
        f"(SELECT {key} FROM {every} {asked} GROUP BY {key} HAVING count(*) > 1) ORDER BY key"
    ):
        keys = table["key"].combine_chunks()
        changes = 1 + np.flatnonzero(pc.not_equal(keys[1:], keys[:-1]).to_numpy(zero_copy_only=False))
        if held and held[0]["key"][0] != keys[0]:
            changes = np.concatenate([[0], changes])
        if not len(changes):
            held.append(table)
            continue
        last = int(changes[-1])
        bounds = np.concatenate([[0], changes + sum(map(len, held))])
        positions = pa.concat_tables([*held, table[:last]])["position"].to_numpy()
        held = [table[last:]]
        yield _ascending(bounds, positions, ranks, scopes)
    if held:
        positions = pa.concat_tables(held)["position"].to_numpy()
        yield _ascending(np.array([0, len(positions)]), positions, ranks, scopes)


def _ascending(
    bounds: NDArray[np.int64], positions: NDArray[np.int64], ranks: Column, scopes: Column | None
) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    bucket = np.repeat(np.arange(len(bounds) - 1, dtype=np.uint64), np.diff(bounds))
    if scopes is None:
        return bounds, np.sort((bucket << _32) | ranks[positions]).astype(np.uint32)
    members, scope = ranks[positions], scopes[positions]
    order = np.lexsort((members, scope, bucket))
    changes = (np.diff(bucket[order]) != 0) | (np.diff(scope[order]) != 0)
    return np.concatenate([[0], 1 + np.flatnonzero(changes), [len(order)]]), members[order]


@numba.njit(nogil=True, cache=True)
def mark_copies(
    bounds: NDArray[np.int64],
    ranks: NDArray[np.uint32],
    left_out: NDArray[np.bool_],
    start: int,
    kind: np.uint8,
    first: NDArray[np.uint32],
    copy: NDArray[np.uint8],
) -> None:
    """Mark each new member of a bucket but the most preferred one as a copy of that one.

    `bounds` and `ranks` are what `buckets` yields, `left_out` (members,) marks those to pass over. `first` gets the
    rank of that one and `copy` the `kind` of copy, both by rank - `start`.
    """
    for bucket in range(len(bounds) - 1):
        leader = -1
        for at in range(bounds[bucket], bounds[bucket + 1]):
            if left_out[at]:
                continue
            if leader < 0:
                leader = at
            elif ranks[at] >= start:
                first[ranks[at] - start] = ranks[leader]
                copy[ranks[at] - start] = kind


@numba.njit(nogil=True, cache=True)
def _counted(
    bounds: NDArray[np.int64], ranks: NDArray[np.uint32], left_out: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    """The buckets without the members to pass over."""
    counted = np.empty_like(bounds)
    members = np.empty_like(ranks)
    size = 0
    counted[0] = 0
    for bucket in range(len(bounds) - 1):
        for at in range(bounds[bucket], bounds[bucket + 1]):
            if not left_out[at]:
                members[size] = ranks[at]
                size += 1
        counted[bucket + 1] = size
    return counted, members[:size]


@numba.njit(nogil=True, cache=True)
def _fill_pairs(
    bounds: NDArray[np.int64],
    members: NDArray[np.uint32],
    start: int,
    representatives: int,
    bucket: int,
    at: int,
    pairs: NDArray[np.uint64],
) -> tuple[int, int, int]:
    """Write pairs of whole members, beginning with the one at `at` of `bucket`; where to go on, and how many pairs."""
    count = 0
    while bucket < len(bounds) - 1:
        first = bounds[bucket]
        at = max(at, first + 1)
        while at < bounds[bucket + 1]:
            if members[at] >= start:
                if count + representatives > len(pairs):
                    return bucket, at, count
                member = np.uint64(members[at]) << _32
                pairs[count] = member | np.uint64(members[first])
                count += 1
                for other in range(max(first + 1, at - representatives + 1), at):
                    pairs[count] = member | np.uint64(members[other])
                    count += 1
            at += 1
        bucket += 1
    return bucket, at, count


def bucket_pairs(
    bounds: NDArray[np.int64],
    ranks: NDArray[np.uint32],
    left_out: NDArray[np.bool_],
    start: int,
    representatives: int,
) -> Iterator[NDArray[np.uint64]]:
    """Pair each new member of a bucket with the first and with its nearest predecessors, `representatives` at most.

    `bounds` and `ranks` are what `buckets` yields, `left_out` (members,) marks those to pass over, and members of ranks
    below `start` are known. A pair is member << 32 | other, the other being the more preferred. A bucket of at most
    representatives + 1 gives all pairs. Yields at most PAIRS at a time, so that a large bucket takes no more memory.
    """
    bounds, members = _counted(bounds, ranks, left_out)
    bucket, at = 0, 0
    while bucket < len(bounds) - 1:
        pairs = np.empty(max(PAIRS, representatives), np.uint64)
        bucket, at, count = _fill_pairs(bounds, members, start, representatives, bucket, at, pairs)
        if count:
            yield pairs[:count]
