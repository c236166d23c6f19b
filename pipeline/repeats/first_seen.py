"""A filter of bounded memory for repeated units: like a Bloom filter, but whatever order the units come in.

A plain Bloom filter calls an element repeated when its bits were set before, so that the answer depends on the order of
arrival. Here each cell holds the smallest rank of all documents with a unit that was hashed to it, and a saturating
count of them; minima and saturating sums do not depend on the order. The rank of a unit's first document is at least
the largest rank in its cells, and the number of its documents at most the smallest count in them (the count-min sketch,
Cormode and Muthukrishnan 2005). So whatever is repeated is found; something that is not is taken for it only where
other units share all of its cells, as in a Bloom filter.
"""

from __future__ import annotations

import math
import threading
from typing import Any, Final

import numba
import numpy as np
from numpy.typing import NDArray

from pipeline.repeats.line_units import Units
from pipeline.text.scan import finish

HASHES: Final = 4
"""Cells of a unit. With memory for ten cells a unit, four err in 1.2 % of all cases; seven, the best, in 0.8 %."""

TOLERABLE: Final = 0.01
"""Rate of false positives from which on the filter counts as too small."""

NO_RANK: Final = 0xFFFFFFFF
_BUCKETS: Final = 1024  # of ranks, for the expected rate
_CHUNK: Final = 1 << 20  # cells looked at at once
_STEP: Final = np.uint64(0xD1B54A32D192ED03)


@numba.njit(nogil=True, cache=True)
def _fill(
    offsets: NDArray[np.int64],
    hashes: NDArray[np.uint64],
    later: NDArray[np.bool_],
    ranks: NDArray[np.uint32],
    cells: int,
    first: NDArray[np.uint32],
    documents: NDArray[Any],
    most: int,
    units_by_rank: NDArray[np.int64],
    bucket_ranks: int,
) -> None:
    for document in range(len(ranks)):
        rank = ranks[document]
        for at in range(offsets[document], offsets[document + 1]):
            if later[at]:  # a unit counts once a document
                continue
            units_by_rank[rank // np.uint32(bucket_ranks)] += 1
            value = finish(hashes[at])
            step = finish(hashes[at] ^ _STEP) | np.uint64(1)
            for _ in range(HASHES):
                cell = value % np.uint64(cells)
                value += step
                if len(first):
                    first[cell] = min(first[cell], rank)
                if len(documents) and documents[cell] < most:
                    documents[cell] += 1


@numba.njit(nogil=True, cache=True)
def _ask(
    offsets: NDArray[np.int64],
    hashes: NDArray[np.uint64],
    later: NDArray[np.bool_],
    ranks: NDArray[np.uint32],
    cells: int,
    first: NDArray[np.uint32],
    documents: NDArray[Any],
    minimum: int,
    goes: NDArray[np.bool_],
) -> None:
    for document in range(len(ranks)):
        rank = np.int64(ranks[document])
        for at in range(offsets[document], offsets[document + 1]):
            value = finish(hashes[at])
            step = finish(hashes[at] ^ _STEP) | np.uint64(1)
            first_rank = np.int64(0)
            count = np.int64(minimum)
            for _ in range(HASHES):
                cell = value % np.uint64(cells)
                value += step
                if len(first):
                    first_rank = max(first_rank, np.int64(first[cell]))
                if len(documents):
                    count = min(count, np.int64(documents[cell]))
            goes[at] = count >= minimum and (len(first) == 0 or later[at] or rank > first_rank)


class FirstSeen:
    """What is repeated under one rule, in `memory_bytes` and no more. Fill it with `add`, then `decide`, then ask.

    Ranks are kept where a first occurrence stays, counts where one document is not enough; `documents` is above every
    rank. Different shards may be added from different threads.
    """

    def __init__(self, memory_bytes: int, minimum_documents: int, keep_first: bool, documents: int) -> None:
        counts = np.dtype(
            np.uint8 if minimum_documents < 2**8 else np.uint16 if minimum_documents < 2**16 else np.uint32
        )
        rank_bytes, count_bytes = 4 * keep_first, counts.itemsize * (minimum_documents > 1)
        self.cells = max(1, memory_bytes // (rank_bytes + count_bytes))
        self._minimum = minimum_documents
        self._first = np.full(self.cells if rank_bytes else 0, NO_RANK, np.uint32)
        self._documents = np.zeros(self.cells if count_bytes else 0, counts)
        self._most = minimum_documents  # more need not be told apart
        self._bucket_ranks = max(1, -(-documents // _BUCKETS))
        self._units_by_rank = np.zeros(_BUCKETS, np.int64)  # units of a document counted once
        self._units = 0
        self._lock = threading.Lock()  # the cells are read, compared and written

    def add(self, shard: int, units: Units, ranks: NDArray[np.uint32]) -> None:
        """Enter the units of a batch."""
        with self._lock:
            self._units += len(units.hashes)
            _fill(
                units.offsets,
                units.hashes,
                units.later,
                ranks,
                self.cells,
                self._first,
                self._documents,
                self._most,
                self._units_by_rank,
                self._bucket_ranks,
            )

    def end_shard(self, shard: int) -> None:
        """Say that all of a shard was added."""

    def decide(self) -> dict[str, int | float]:
        """Return what is known of the filter once all is added.

        `fill` is the share of cells in use, `false_positives` the expected share of units in a single document that
        are taken for repeated, `too_small` whether that is more than TOLERABLE, `sufficient_megabytes` what keeps it
        below, estimated from the fill: where it is the larger, give the filter that much.
        """
        fill = self._share_of_counts(1) if len(self._documents) else sum(self._cells_by_rank()) / self.cells
        entered = int(self._units_by_rank.sum())
        distinct = entered if fill == 1 else min(entered, -self.cells / HASHES * math.log1p(-fill))
        cells_a_unit = -HASHES / math.log1p(-(TOLERABLE ** (1 / HASHES)))
        cell_bytes = (self._first.nbytes + self._documents.nbytes) / self.cells
        rate = self._false_positives()
        return {
            "units": self._units,
            "distinct": round(distinct),
            "cells": self.cells,
            "fill": fill,
            "false_positives": rate,
            "too_small": rate > TOLERABLE,
            "sufficient_megabytes": math.ceil(distinct * cells_a_unit * cell_bytes / 2**20),
        }

    def _false_positives(self) -> float:
        """Expected rate: all cells of a unit were reached by others, of lower ranks or in enough documents."""
        rates = [1.0]
        if len(self._first):
            cells = self._cells_by_rank()
            below = (np.cumsum(cells) - cells / 2) / self.cells  # cells of a lower rank than the middle of each bucket
            rates.append(float(self._units_by_rank @ below**HASHES / max(1, self._units_by_rank.sum())))
        if len(self._documents):
            rates.append(self._share_of_counts(self._minimum - 1) ** HASHES)
        return min(rates)

    def _cells_by_rank(self) -> NDArray[np.int64]:
        """Cells in use, by the bucket of their rank."""
        cells = np.zeros(_BUCKETS, np.int64)
        for start in range(0, self.cells, _CHUNK):
            part = self._first[start : start + _CHUNK]
            cells += np.bincount(part[part != NO_RANK] // self._bucket_ranks, minlength=_BUCKETS)
        return cells

    def _share_of_counts(self, least: int) -> float:
        """Share of the cells that count at least so many documents."""
        parts = (self._documents[start : start + _CHUNK] for start in range(0, self.cells, _CHUNK))
        return sum(int(np.count_nonzero(part >= least)) for part in parts) / self.cells

    def any_repeated(self, shard: int) -> bool:
        """Whether any unit of a shard may go."""
        return True

    def repeated(self, shard: int, first: int, units: Units, ranks: NDArray[np.uint32]) -> NDArray[np.bool_]:
        """Whether each unit of a batch goes, (units,)."""
        goes = np.empty(len(units.hashes), np.bool_)
        _ask(
            units.offsets,
            units.hashes,
            units.later,
            ranks,
            self.cells,
            self._first,
            self._documents,
            self._minimum,
            goes,
        )
        return goes
