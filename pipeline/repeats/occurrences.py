"""Every occurrence of every unit, in a file partitioned by hash: exact counts and first occurrences, out of core.

An occurrence is 16 bytes on disk: the hash of the unit, and its place (rank of the document, whether the unit stands
earlier in the same document, number of the unit in the shard). The file is a sequence of blocks, each sorted into
partitions by the top bits of the hash, so that any run of partitions is one slice of each block. Runs are counted one
at a time in a hash table of bounded size; a partition with more distinct hashes than fit is gone through several times.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numba
import numpy as np
from numpy.typing import NDArray

from pipeline.repeats.line_units import Units
from pipeline.repeats.parallel import ordered_map

PARTITIONS: Final = 1024
MOST_UNITS: Final = 2**31
"""Units of a shard: their numbers share 32 bits with a flag."""

SLOT_BYTES: Final = 16  # hash, first rank, documents
_LOAD: Final = 0.75  # of the hash table
_LARGEST_BUFFER: Final = 1 << 22  # occurrences; 64 MiB

_PARTITION_SHIFT: Final = np.uint64(54)
_PART_SHIFT: Final = np.uint64(40)
_32: Final = np.uint64(32)
_LATER: Final = np.uint64(1 << 31)
_NUMBER: Final = np.uint64((1 << 31) - 1)
_MOST_DOCUMENTS: Final = 0xFFFFFFFF


@numba.njit(nogil=True, cache=True)
def _places(
    offsets: NDArray[np.int64], later: NDArray[np.bool_], ranks: NDArray[np.uint32], first: int
) -> NDArray[np.uint64]:
    places = np.empty(len(later), np.uint64)
    for document in range(len(ranks)):
        rank = np.uint64(ranks[document]) << _32
        for at in range(offsets[document], offsets[document + 1]):
            places[at] = rank | np.uint64(first + at)
            if later[at]:
                places[at] |= _LATER
    return places


@numba.njit(nogil=True, cache=True)
def _partition(
    hashes: NDArray[np.uint64], places: NDArray[np.uint64], bounds: NDArray[np.int64], block: NDArray[np.uint64]
) -> None:
    """Sort occurrences by partition into `block`, (2, occurrences); `bounds` are (PARTITIONS + 1,)."""
    bounds[:] = 0
    for value in hashes:
        bounds[(value >> _PARTITION_SHIFT) + np.uint64(1)] += 1
    for partition in range(PARTITIONS):
        bounds[partition + 1] += bounds[partition]
    fill = bounds.copy()
    for at in range(len(hashes)):
        partition_ = hashes[at] >> _PARTITION_SHIFT
        block[0, fill[partition_]] = hashes[at]
        block[1, fill[partition_]] = places[at]
        fill[partition_] += 1


@numba.njit(nogil=True, cache=True)
def _count(
    hashes: NDArray[np.uint64],
    places: NDArray[np.uint64],
    parts: np.uint64,
    part: np.uint64,
    keys: NDArray[np.uint64],
    first: NDArray[np.uint32],
    documents: NDArray[np.uint32],
    used: int,
) -> int:
    """Enter occurrences into the hash table, whose `documents` are one more than counted, 0 where a slot is empty.

    Only hashes of this `part` of `parts` (a power of two). Returns the slots in use, or -1 when they become too many.
    """
    mask = np.uint64(len(keys) - 1)
    most = int(len(keys) * _LOAD)
    for at in range(len(hashes)):
        key = hashes[at]
        if (key >> _PART_SHIFT) & (parts - np.uint64(1)) != part:
            continue
        slot = key & mask
        while documents[slot] != 0 and keys[slot] != key:
            slot = (slot + np.uint64(1)) & mask
        rank = np.uint32(places[at] >> _32)
        if documents[slot] == 0:
            if used == most:
                return -1
            used += 1
            keys[slot] = key
            first[slot] = rank
            documents[slot] = np.uint32(1)
        first[slot] = min(first[slot], rank)
        if not places[at] & _LATER and documents[slot] < np.uint32(_MOST_DOCUMENTS):
            documents[slot] += np.uint32(1)
    return used


@numba.njit(nogil=True, cache=True)
def _decide(
    hashes: NDArray[np.uint64],
    places: NDArray[np.uint64],
    parts: np.uint64,
    part: np.uint64,
    keys: NDArray[np.uint64],
    first: NDArray[np.uint32],
    documents: NDArray[np.uint32],
    minimum: int,
    keep_first: bool,
    goes: NDArray[np.uint8],
) -> int:
    """Mark the units of one shard that go, by number; returns how many."""
    mask = np.uint64(len(keys) - 1)
    count = 0
    for at in range(len(hashes)):
        key = hashes[at]
        if (key >> _PART_SHIFT) & (parts - np.uint64(1)) != part:
            continue
        slot = key & mask
        while keys[slot] != key or documents[slot] == 0:
            slot = (slot + np.uint64(1)) & mask
        if np.int64(documents[slot]) - 1 < minimum:
            continue
        place = places[at]
        if keep_first and np.uint32(place >> _32) == first[slot] and not place & _LATER:
            continue
        goes[place & _NUMBER] = 1
        count += 1
    return count


@dataclass(frozen=True)
class _Block:
    """Occurrences of one shard: `size` hashes from `offset` on (in 64-bit words of the file), then as many places."""

    shard: int
    offset: int
    size: int
    bounds: NDArray[np.int64]  # (PARTITIONS + 1,): occurrences of the partitions before

    def __post_init__(self) -> None:
        self.bounds.flags.writeable = False


class Occurrences:
    """What is repeated under one rule. Fill it with `add` and `end_shard`, then `decide`, then ask `repeated`.

    Holds about `memory_bytes` while it decides, but 1 MiB a thread at least, and half of its share of that, being one
    of `rules`, before. Different shards may be added from different threads.
    """

    def __init__(
        self, path: Path, minimum_documents: int, keep_first: bool, memory_bytes: int, threads: int, rules: int = 1
    ) -> None:
        self._path = path
        self._minimum, self._keep_first = minimum_documents, keep_first
        self._threads = threads
        self._most_slots = 1 << max(16, (memory_bytes // threads // SLOT_BYTES).bit_length() - 1)
        # An occurrence takes 16 bytes in the buffer, as many when arrays are joined, and as many in the block.
        self._buffer = min(_LARGEST_BUFFER, memory_bytes // (threads * rules * 96))
        path.write_bytes(b"")
        self._written = 0  # 64-bit words
        self._lock = threading.Lock()
        self._blocks: list[_Block] = []
        self._held: dict[int, list[tuple[NDArray[np.uint64], NDArray[np.uint64]]]] = {}
        self._units: dict[int, int] = {}
        self._goes = np.empty(0, np.uint8)
        self._starts: dict[int, int] = {}

    def add(self, shard: int, units: Units, ranks: NDArray[np.uint32]) -> None:
        """Enter the units of a batch; the batches of a shard come in order."""
        first = self._units.get(shard, 0)
        self._units[shard] = first + len(units.hashes)
        if self._units[shard] > MOST_UNITS:
            raise ValueError(f"shard {shard} has more than {MOST_UNITS:,} lines, paragraphs or sentences: split it")
        held = self._held.setdefault(shard, [])
        held.append((units.hashes, _places(units.offsets, units.later, ranks, first)))
        if sum(len(hashes) for hashes, _ in held) >= self._buffer:
            self._flush(shard)

    def end_shard(self, shard: int) -> None:
        """Say that all of a shard was added."""
        self._flush(shard)

    def _flush(self, shard: int) -> None:
        held = self._held.pop(shard, [])
        size = sum(len(hashes) for hashes, _ in held)
        if not size:
            return
        block, bounds = np.empty((2, size), np.uint64), np.empty(PARTITIONS + 1, np.int64)
        hashes, places = (np.concatenate(arrays) for arrays in zip(*held, strict=True))
        _partition(hashes, places, bounds, block)
        with self._lock:
            with open(self._path, "ab") as stream:
                stream.write(block.data)
            self._blocks.append(_Block(shard, self._written, size, bounds))
            self._written += 2 * size

    def decide(self) -> dict[str, int]:
        """Find what goes. Returns how many units there are, distinct ones, distinct repeated ones, and units to go."""
        total = 0
        for shard in sorted(self._units):
            self._starts[shard] = total
            total += self._units[shard]
        facts = {"units": total, "distinct": 0, "repeated": 0, "cut": 0}
        if total:
            self._goes = _zeros_on_disk(self._path.with_suffix(".goes"), total)
            words = np.asarray(np.memmap(self._path, np.uint64, "r"))
            for distinct, repeated, cut in ordered_map(
                lambda run: self._decide_run(words, *run), self._runs(), self._threads
            ):
                facts["distinct"] += distinct
                facts["repeated"] += repeated
                facts["cut"] += cut
        self._path.unlink()
        return facts

    def _runs(self) -> list[tuple[int, int]]:
        """Runs of partitions, each of as many occurrences as surely fit, or of one partition."""
        sizes = np.sum([np.diff(block.bounds) for block in self._blocks], axis=0)
        most = int(self._most_slots * _LOAD)
        runs, begin, held = [], 0, 0
        for partition, size in enumerate(sizes.tolist()):
            if held and size and held + size > most:
                runs.append((begin, partition))
                begin, held = partition, 0
            held += size
        return [*runs, (begin, PARTITIONS)]

    def _decide_run(self, words: NDArray[np.uint64], begin: int, end: int) -> tuple[int, int, int]:
        """Count and decide a run of partitions, in as few parts as the table allows."""
        size = sum(int(block.bounds[end] - block.bounds[begin]) for block in self._blocks)
        slots = min(self._most_slots, 1 << max(4, int(size / _LOAD).bit_length()))
        parts = 1
        while True:
            totals = [0, 0, 0]
            for part in range(parts):
                found = self._decide_part(words, begin, end, parts, part, slots)
                if found is None:
                    break
                totals = [total + more for total, more in zip(totals, found, strict=True)]
            else:
                return totals[0], totals[1], totals[2]
            parts *= 2  # what was marked before is marked again, the same

    def _decide_part(
        self, words: NDArray[np.uint64], begin: int, end: int, parts: int, part: int, slots: int
    ) -> tuple[int, int, int] | None:
        keys, first = np.empty(slots, np.uint64), np.empty(slots, np.uint32)
        documents = np.zeros(slots, np.uint32)
        table = (np.uint64(parts), np.uint64(part), keys, first, documents)
        used = 0
        for block in self._blocks:
            hashes, places = _slices(words, block, begin, end)
            used = _count(hashes, places, *table, used)
            if used < 0:
                return None
        cut = 0
        for block in self._blocks:
            goes = self._goes[self._starts[block.shard] :]
            hashes, places = _slices(words, block, begin, end)
            cut += _decide(hashes, places, *table, self._minimum, self._keep_first, goes)
        return used, int((documents > self._minimum).sum()), cut

    def any_repeated(self, shard: int) -> bool:
        """Whether any unit of a shard goes."""
        start = self._starts.get(shard, 0)
        return bool(self._goes[start : start + self._units.get(shard, 0)].any())

    def repeated(self, shard: int, first: int, units: Units, ranks: NDArray[np.uint32]) -> NDArray[np.bool_]:
        """Whether each unit of a batch goes, (units,); `first` is the number of the first one in the shard."""
        start = self._starts.get(shard, 0) + first
        return self._goes[start : start + len(units.hashes)].view(np.bool_)


def _slices(
    words: NDArray[np.uint64], block: _Block, begin: int, end: int
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    low, high = block.offset + int(block.bounds[begin]), block.offset + int(block.bounds[end])
    return words[low:high], words[low + block.size : high + block.size]


def _zeros_on_disk(path: Path, size: int) -> NDArray[np.uint8]:
    """A mapped file of zeros, really written: a full disk is an error here, and not a bus error later."""
    chunk = np.zeros(min(size, 1 << 24), np.uint8)
    with open(path, "wb") as stream:
        for start in range(0, size, len(chunk)):
            stream.write(chunk[: size - start].data)
    mapped = np.asarray(np.memmap(path, np.uint8, "r+"))
    path.unlink()  # the mapping keeps it
    return mapped
