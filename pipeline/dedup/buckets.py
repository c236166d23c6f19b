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

_32 = np.uint64(32)


def buckets(
    signatures: SignatureTable, key: str, ranks: Column, scopes: Column | None, tables: tuple[str, str] = TABLES
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint32]]]:
    """Buckets of two or more documents that agree in a column, a new one among them.

    `tables` names the table with the column and `position`, and the part of it that is new. A null is in no bucket.
    With `scopes`, the documents of a bucket agree in those (by position), too. Yields whole buckets, many at a time:
    bounds (buckets + 1,) into the ranks of their members, ascending in each bucket.
    """
    every, fresh = tables
    asked = f"WHERE {key} IN (SELECT {key} FROM {fresh})" if signatures.index.known else ""
    held: pa.Table | None = None
    for table in signatures.stream(
        f"SELECT {key} AS key, position FROM {every} WHERE {key} IN "
        f"(SELECT {key} FROM {every} {asked} GROUP BY {key} HAVING count(*) > 1) ORDER BY key"
    ):
        if held is not None:
            table = pa.concat_tables([held, table])
        keys = table["key"].combine_chunks()
        changes = 1 + np.flatnonzero(pc.not_equal(keys[1:], keys[:-1]).to_numpy(zero_copy_only=False))
        last = int(changes[-1]) if len(changes) else 0  # what follows may go on in the next batch
        held = table[last:]
        if last:
            yield _ascending(np.concatenate([[0], changes]), table["position"].to_numpy()[:last], ranks, scopes)
    if held is not None and len(held):
        yield _ascending(np.array([0, len(held)]), held["position"].to_numpy(), ranks, scopes)


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
def bucket_pairs(
    bounds: NDArray[np.int64],
    ranks: NDArray[np.uint32],
    left_out: NDArray[np.bool_],
    start: int,
    representatives: int,
) -> NDArray[np.uint64]:
    """Pair each new member of a bucket with the first and with its nearest predecessors, `representatives` at most.

    `bounds` and `ranks` are what `buckets` yields, `left_out` (members,) marks those to pass over, and members of ranks
    below `start` are known. A pair is member << 32 | other, the other being the more preferred. A bucket of at most
    representatives + 1 gives all pairs.
    """
    members = np.empty(len(ranks), np.uint32)
    pairs = np.empty(0, np.uint64)
    for counting in (True, False):
        count = 0
        for bucket in range(len(bounds) - 1):
            size = 0
            for at in range(bounds[bucket], bounds[bucket + 1]):
                if not left_out[at]:
                    members[size] = ranks[at]
                    size += 1
            for place in range(1, size):
                if members[place] < start:
                    continue
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
