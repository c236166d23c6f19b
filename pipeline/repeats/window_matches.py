"""Which windows of words are equal to an earlier one: groups by hash, and the proof of each match, word for word.

Windows are known by their *location*, the place of their first word in one file of words. Their order of preference is
another number, the *order*: of equal windows the one of the least order stays.
"""

from __future__ import annotations

import mmap
import threading
from pathlib import Path

import numba
import numpy as np
from numpy.typing import NDArray

from pipeline.repeats.spill import Part, Spill
from pipeline.repeats.winnowing import mixed

HASH, ORDER, LOCATION = range(3)
"""Columns of the records of windows."""

OWN, FIRST, OWN_ORDER = range(3)
"""Columns of the records of matches: the location of a window, scaled to 64 bits, that of the first one with its hash,
and the order of the window."""

_1 = np.uint64(1)
_UNUSED = np.uint64(0xFFFFFFFFFFFFFFFF)  # no order is so large
_ROOM = 1024
_PAGES = 1 << 16  # bytes that a first touch of a mapped file may bring in


@numba.njit(nogil=True, cache=True)
def _enter(records: NDArray[np.uint64], table: NDArray[np.uint64]) -> int:
    mask = np.uint64(len(table) - 1)
    fresh = 0
    for row in range(len(records)):
        slot = records[row, HASH] & mask
        while table[slot, ORDER] != _UNUSED and table[slot, HASH] != records[row, HASH]:
            slot = (slot + _1) & mask
        fresh += table[slot, ORDER] == _UNUSED
        if records[row, ORDER] < table[slot, ORDER]:
            for column in range(3):
                table[slot, column] = records[row, column]
    return fresh


@numba.njit(nogil=True, cache=True)
def _matches(
    records: NDArray[np.uint64], table: NDArray[np.uint64], shift: np.uint64, matches: NDArray[np.uint64]
) -> int:
    mask = np.uint64(len(table) - 1)
    count = 0
    for row in range(len(records)):
        slot = records[row, HASH] & mask
        while table[slot, HASH] != records[row, HASH] or table[slot, ORDER] == _UNUSED:
            slot = (slot + _1) & mask
        if table[slot, LOCATION] != records[row, LOCATION]:
            matches[count, OWN] = records[row, LOCATION] << shift
            matches[count, FIRST] = table[slot, LOCATION]
            matches[count, OWN_ORDER] = records[row, ORDER]
            count += 1
    return count


def match_windows(windows: Part, shift: int, matches: Spill) -> None:
    """Match each window with the first one of its hash, and append the matches. Linear, however often one occurs.

    windows: records of HASH, ORDER and LOCATION. A location is written shifted by `shift`, so that its leading bits
    divide the matches. Takes up to six times the memory that the records of distinct hashes take.
    """
    table = np.full((_ROOM, 3), _UNUSED)
    used = 0
    for chunk in windows.chunks():
        if 2 * (used + len(chunk)) > len(table):
            larger = np.full((1 << int(2 * (used + len(chunk))).bit_length(), 3), _UNUSED)
            _enter(table[table[:, ORDER] != _UNUSED], larger)
            table = larger
        used += _enter(chunk, table)
    for chunk in windows.chunks():
        found = np.empty_like(chunk)
        matches.append(found[: _matches(chunk, table, np.uint64(shift), found)].copy())


@numba.njit(nogil=True, cache=True)
def _place(
    matches: NDArray[np.uint64], shift: np.uint64, low: int, first: NDArray[np.int64], order: NDArray[np.uint64]
) -> None:
    for row in range(len(matches)):
        own = np.int64(matches[row, OWN] >> shift) - low
        first[own] = np.int64(matches[row, FIRST])
        order[own] = matches[row, OWN_ORDER]


@numba.njit(nogil=True, cache=True)
def _prove(
    words: NDArray[np.uint64], tokens: int, low: int, first: NDArray[np.int64], order: NDArray[np.uint64],
    begin: int, most_bytes: int, repeated: NDArray[np.uint8], refused: NDArray[np.uint64],
) -> tuple[int, int, int]:  # fmt: skip
    """Prove matches from location low + begin on, until so much of the words is touched.

    Returns where to go on, the matches proved and those refused; the latter are written as records of windows.
    """
    proved = 0
    refusals = 0
    touched = 0
    at = begin
    while at < len(first) and touched < most_bytes:
        if first[at] < 0:
            at += 1
            continue
        # Consecutive windows that match consecutive ones are compared as one run: each word once.
        windows = 1
        while at + windows < len(first) and first[at + windows] == first[at] + windows:
            windows += 1
        own = low + at
        other = first[at]
        equal = 0
        for word in range(windows + tokens - 1):
            equal = equal + 1 if words[own + word] == words[other + word] else 0
            window = word - tokens + 1
            if window < 0:
                continue
            if equal >= tokens:
                proved += 1
                if abs(own - other) >= tokens:
                    repeated[at + window] = 1
            else:
                refused[refusals, HASH] = mixed(np.uint64(other + window))
                refused[refusals, ORDER] = order[at + window]
                refused[refusals, LOCATION] = np.uint64(own + window)
                refusals += 1
        touched += 2 * (8 * (windows + tokens) + _PAGES)
        at += windows
    return at, proved, refusals


def mapped(path: Path) -> mmap.mmap:
    """Map a file that is not empty into memory, for reading. It is unmapped with the last array over it."""
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def unload(file: mmap.mmap) -> None:
    """Take what was read of a mapped file out of this process's memory, where the system can."""
    if hasattr(mmap, "MADV_DONTNEED"):
        file.madvise(mmap.MADV_DONTNEED)


class Proof:
    """Compares the words of matching windows, and marks those windows that repeat an earlier one.

    A window is marked where it is equal to its first and does not overlap it: their locations differ by `tokens` or
    more. Windows of different documents must lie so far apart. `repeated` is a file with a byte for each location, 1
    for a window that repeats.
    """

    def __init__(self, words: Path, repeated: Path, locations: int, tokens: int, shift: int) -> None:
        self.words = words
        self.repeated = repeated
        self.locations = locations
        self.tokens = tokens
        self.shift = shift
        self.proved = 0
        self.refused = 0
        self._lock = threading.Lock()

    def memory(self, matches: Part) -> int:
        """Return how many bytes it takes to prove the matches of a part, besides their words."""
        return self._range(matches) * (8 + 8 + 1) + matches.bytes

    def prove(self, matches: Part, unmatched: Spill, most_bytes: int) -> None:
        """Compare the windows of matches; those refused are appended to `unmatched`, to be matched once more.

        All windows that differ from one and the same first have a new hash, the same for all. `most_bytes` bounds the
        words that are mapped into memory at a time.
        """
        low = matches.low >> self.shift
        locations = min(self._range(matches), self.locations - low)
        first = np.full(locations, -1, np.int64)
        order = np.empty(locations, np.uint64)
        for chunk in matches.chunks():
            _place(chunk, np.uint64(self.shift), low, first, order)
        marks = np.zeros(locations, np.uint8)
        refused = np.empty((matches.bytes // (8 * matches.columns), 3), np.uint64)
        at = proved = refusals = 0
        file = mapped(self.words)
        words = np.frombuffer(file, np.uint64)
        while at < locations:
            at, more, fewer = _prove(words, self.tokens, low, first, order, at, most_bytes, marks, refused)
            proved += more
            refusals += fewer
            if fewer:
                unmatched.append(refused[:fewer].copy())
            unload(file)
        with open(self.repeated, "r+b") as marked:
            marked.seek(low)
            before = np.fromfile(marked, np.uint8, locations)
            marked.seek(low)
            (before | marks).tofile(marked)
        with self._lock:
            self.proved += proved
            self.refused += refusals

    def _range(self, part: Part) -> int:
        return max(1, part.size >> self.shift)
