"""Repeated lines, paragraphs and word n-grams of one document, counted exactly.

Lines, paragraphs, words and pairs of words are compared by 64-bit hashes; longer n-grams by pairs of positions, which
cannot collide.
"""

from typing import Final, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

Int = int | np.int64

TOP_SIZES: Final = (2, 3, 4)
DUPLICATE_SIZES: Final = (5, 6, 7, 8, 9, 10)
LARGEST: Final = 10

_SPREAD: Final = np.uint64(0x9E3779B97F4A7C15)  # multiplicative hashing by the golden ratio
_SHIFT: Final = np.uint64(40)
_32: Final = np.uint64(32)


class Workspace(NamedTuple):
    """Room for the counting, used again for each document."""

    slots: NDArray[np.int32]  # hash table: position of the first item with the key, plus 1; 0 is empty
    keys: NDArray[np.uint64]  # (items,) key of the item at each position
    first: NDArray[np.int32]  # (items,) position of the first n-gram equal to the one here, or -1
    counts: NDArray[np.int32]  # (items,) occurrences, at the position of the first
    active: NDArray[np.int32]  # positions whose n-gram occurs more than once
    visited: NDArray[np.uint8]


def make_workspace(items: int) -> Workspace:
    """Room for up to `items` words or lines. Memory that no document needs is never touched."""
    return Workspace(
        np.empty(_table_size(items), np.int32),
        np.empty(items, np.uint64),
        np.empty(items + 1, np.int32),
        np.empty(items, np.int32),
        np.empty(items, np.int32),
        np.empty(items, np.uint8),
    )


def _table_size(items: int) -> int:
    return 1 << max(4, (2 * items).bit_length())


@numba.njit(nogil=True, cache=True, inline="always")
def _clear(slots: NDArray[np.int32], items: Int) -> np.uint64:
    """Empty a table at least twice as large as `items`, within `slots`; returns its mask."""
    size = 16
    while size <= 2 * items:
        size *= 2
    size = min(size, len(slots))
    slots[:size] = 0
    return np.uint64(size - 1)


@numba.njit(nogil=True, cache=True, inline="always")
def _first(slots: NDArray[np.int32], mask: np.uint64, keys: NDArray[np.uint64], at: Int) -> Int:
    """Position of the first item with the key of item `at`, which is entered where it is the first."""
    key = keys[at]
    slot = ((key * _SPREAD) >> _SHIFT) & mask
    while True:
        entry = slots[slot]
        if entry == 0:
            slots[slot] = at + 1
            return at
        if keys[entry - 1] == key:
            return np.int64(entry) - 1
        slot = (slot + np.uint64(1)) & mask


@numba.njit(nogil=True, cache=True)
def count_repeats(
    hashes: NDArray[np.uint64], sizes: NDArray[np.int64], count: Int, space: Workspace
) -> tuple[Int, Int]:
    """Number and total size of the items hashes[:count] that occurred before."""
    mask = _clear(space.slots, count)
    repeats, size = 0, np.int64(0)
    for at in range(count):
        if _first(space.slots, mask, hashes, at) != at:
            repeats += 1
            size += sizes[at]
    return repeats, size


@numba.njit(nogil=True, cache=True)
def count_ngrams(
    words: NDArray[np.uint64],
    word_ends: NDArray[np.int64],
    count: Int,
    gap: Int,
    space: Workspace,
    characters: NDArray[np.int64],
) -> None:
    """Characters in repeated n-grams, into characters[n] (0 to LARGEST), for documents of `count` words.

    For n in TOP_SIZES: of all occurrences of the n-gram that occurs most often, the first of several, with `gap`
    characters (1 or 0) between its words; one that occurs once counts, too. For n in DUPLICATE_SIZES: of the words of
    n-grams that occurred before, read from the first word to the last and passing over a repeated n-gram as a whole, so
    that no character counts twice. Both are the readings of datatrove.

    A 2-gram is known by the hashes of its words. A longer one can only repeat where both (n - 1)-grams in it do, so
    each size looks at the survivors of the one before, by the positions where those first occurred.
    """
    characters[:] = 0
    for n in TOP_SIZES:
        if count >= n:
            characters[n] = word_ends[n] + (n - 1) * gap
    if count < 2:
        return
    keys, first, counts, active, visited = space.keys, space.first, space.counts, space.active, space.visited
    alive = count - 1
    for at in range(alive):
        keys[at] = (words[at] * _SPREAD) ^ words[at + 1]
        active[at] = at
    first[alive] = first[count] = -1
    for n in range(2, LARGEST + 1):
        # What survives is written over what was read, without a branch that could not be predicted.
        candidates = alive
        if n > 2:
            candidates = 0
            for number in range(alive):
                at = int(active[number])
                following = first[at + 1]  # still that of n - 1, as positions are taken from left to right
                keys[at] = (np.uint64(first[at]) << _32) | np.uint64(following & 0x7FFFFFFF)
                first[at] = -1
                active[candidates] = at
                candidates += following >= 0
        if candidates == 0:
            return
        mask = _clear(space.slots, candidates)
        for number in range(candidates):
            at = int(active[number])
            origin = _first(space.slots, mask, keys, at)
            first[at] = origin
            if origin == at:
                counts[at] = 0
                visited[at] = 0
            counts[origin] += 1
        alive = 0
        free_from = 0
        most = 1
        for number in range(candidates):
            at = int(active[number])
            origin = int(first[at])
            repeated = counts[origin] > 1
            active[alive] = at
            alive += repeated
            if not repeated:
                first[at] = -1
            elif n <= 4:
                if counts[origin] > most:  # positions are taken from left to right: this is the first
                    most = int(counts[origin])
                    characters[n] = most * (word_ends[at + n] - word_ends[at] + (n - 1) * gap)
            elif at >= free_from:
                if visited[origin]:
                    characters[n] += word_ends[at + n] - word_ends[at]
                    free_from = at + n
                visited[origin] = 1
