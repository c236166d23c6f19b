"""Winnowing (Schleimer, Wilkerson, Aiken 2003, SIGMOD): few hashes of a text, by which any two equal windows agree.

A gram is `gram_words` consecutive words. The anchor of a window of gram_words + grams - 1 words is the least hash of
its `grams` grams. It depends on the window alone, so equal windows have equal anchors; and as neighbouring windows
mostly share theirs, a text has only about 2 / (grams + 1) anchors a word.
"""

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

RADIX = np.uint64(0x9FB21C651E98DF25)  # odd, of mixed bits; the base of the rolling polynomial
_FINAL = np.uint64(0xD6E8FEB86659FD93)
_32 = np.uint64(32)
_29 = np.uint64(29)
_0 = np.uint64(0)
_1 = np.uint64(1)
_63 = np.uint64(63)
_MOST = np.uint64(0xFFFFFFFFFFFFFFFF)
_KEYS_A_BLOCK = 4  # at most, of 64 bits: under 1 % of the lookups are wrong
_ROOM = 1024


@numba.njit(nogil=True, cache=True, inline="always")
def mixed(value: np.uint64) -> np.uint64:
    """A bijection after which every bit depends on every bit that is not above it, and the low ones on all."""
    value = (value ^ (value >> _32)) * _FINAL
    value = (value ^ (value >> _29)) * RADIX
    return value ^ (value >> _32)


class Anchors(NamedTuple):
    """The anchors of documents, in text order, each for a run of at most `grams` windows that share it."""

    hashes: NDArray[np.uint64]
    begins: NDArray[np.int64]  # first word of the first window of the run
    ends: NDArray[np.int64]  # after the first word of the last one


@numba.njit(nogil=True, cache=True)
def _winnow(
    offsets: NDArray[np.int64], words: NDArray[np.uint64], gram_words: int, grams: int,
    hashes: NDArray[np.uint64], begins: NDArray[np.int64], ends: NDArray[np.int64],
) -> int:  # fmt: skip
    """Sliding minima by van Herk (1992): of what is left of one block of grams, and of the next block so far."""
    values = np.empty(grams, np.uint64)
    rest = np.empty(grams + 1, np.uint64)  # least value of a block from each place on
    rest[grams] = _MOST
    leaving = np.uint64(1)
    for _ in range(gram_words):
        leaving *= RADIX
    count = np.int64(-1)
    for document in range(len(offsets) - 1):
        start = offsets[document]
        grams_left = offsets[document + 1] - start - gram_words + 1
        if grams_left < grams:
            continue
        state = _0
        for word in range(start, start + gram_words - 1):
            state = state * RADIX + words[word]
        entering = start + gram_words - 1
        outgoing = _0
        least = _0
        window = start - grams  # that ends with the gram before
        begin = window  # so far away that the first window of the document changes the anchor
        while grams_left > 0:
            size = min(np.int64(grams), grams_left)
            so_far = _MOST
            for place in range(size):
                state = state * RADIX + words[entering] - outgoing
                entering += 1
                outgoing = words[entering - gram_words] * leaving
                value = state * _FINAL  # the leading bits, which decide, depend on all of the state
                value ^= value >> _32
                values[place] = value
                so_far = min(so_far, value)
                window += 1
                if window >= start:
                    # Without a branch on whether the anchor changes, which cannot be predicted.
                    anchor = min(so_far, rest[place + 1])
                    change = (anchor != least) | (window - begin >= grams)
                    count += change
                    begin = window if change else begin
                    least = anchor
                    hashes[count] = anchor
                    begins[count] = begin
                    ends[count] = window + 1
            grams_left -= size
            least_of_rest = _MOST
            for place in range(size - 1, -1, -1):
                least_of_rest = min(least_of_rest, values[place])
                rest[place] = least_of_rest
    for number in range(count + 1):
        hashes[number] = max(mixed(hashes[number]), _1)  # least values are small: their bits are spread evenly again
    return int(count + 1)


def winnow(offsets: NDArray[np.int64], words: NDArray[np.uint64], gram_words: int, grams: int) -> Anchors:
    """The anchors of documents; `offsets` and `words` are what `word_hashes` returns. None is 0.

    Every window belongs to one entry, and two windows that do not overlap never to the same. A document of fewer than
    gram_words + grams - 1 words has none.
    """
    hashes = np.empty(len(words), np.uint64)
    begins = np.empty(len(words), np.int64)
    ends = np.empty(len(words), np.int64)
    count = _winnow(offsets, words, gram_words, grams, hashes, begins, ends)
    return Anchors(hashes[:count], begins[:count], ends[:count])


@numba.njit(nogil=True, cache=True)
def _count(hashes: NDArray[np.uint64], slots: NDArray[np.uint64], repeated: NDArray[np.bool_]) -> int:
    mask = np.uint64(len(slots) - 1)
    fresh = 0
    for value in hashes:
        slot = value & mask
        while slots[slot] != _0 and slots[slot] != value:
            slot = (slot + _1) & mask
        if slots[slot] == _0:
            slots[slot] = value
            fresh += 1
        else:
            repeated[slot] = True
    return fresh


class RepeatedHashes:
    """Which hashes were added twice or more: a hash table of 18 to 36 bytes for each distinct one."""

    def __init__(self) -> None:
        self._slots = np.zeros(_ROOM, np.uint64)
        self._repeated = np.zeros(_ROOM, np.bool_)
        self._used = 0

    def add(self, hashes: NDArray[np.uint64]) -> None:
        """Add hashes (hashes,), none of them 0."""
        if 2 * (self._used + len(hashes)) > len(self._slots):
            slots, repeated = self._slots, self._repeated
            size = 1 << int(2 * (self._used + len(hashes))).bit_length()
            self._slots, self._repeated = np.zeros(size, np.uint64), np.zeros(size, np.bool_)
            _count(slots[slots != 0], self._slots, self._repeated)
            _count(slots[repeated], self._slots, self._repeated)
        self._used += _count(hashes, self._slots, self._repeated)

    def repeated(self) -> NDArray[np.uint64]:
        """Return those added twice or more, each once."""
        return self._slots[self._repeated]


@numba.njit(nogil=True, cache=True, inline="always")
def _bits(value: np.uint64) -> np.uint64:
    return (
        _1 << (value >> np.uint64(58))
        | _1 << ((value >> np.uint64(52)) & _63)
        | _1 << ((value >> np.uint64(46)) & _63)
        | _1 << ((value >> np.uint64(40)) & _63)
    )


@numba.njit(nogil=True, cache=True)
def add_to_filter(blocks: NDArray[np.uint64], hashes: NDArray[np.uint64]) -> None:
    """Enter hashes into a filter made by `empty_filter`."""
    mask = np.uint64(len(blocks) - 1)
    for value in hashes:
        blocks[value & mask] |= _bits(value)


def empty_filter(hashes: int, most_bytes: int) -> NDArray[np.uint64]:
    """A blocked Bloom filter (Putze, Sanders, Singler 2007) for so many hashes: uint64 (blocks,).

    Where `most_bytes` are too few, it is right less often; it always knows what was entered.
    """
    blocks = 1 << max(0, (hashes // _KEYS_A_BLOCK)).bit_length()
    while blocks > 1 and 8 * blocks > most_bytes:
        blocks //= 2
    return np.zeros(blocks, np.uint64)


@numba.njit(nogil=True, cache=True)
def _windows(
    hashes: NDArray[np.uint64], begins: NDArray[np.int64], ends: NDArray[np.int64], blocks: NDArray[np.uint64],
    windows: NDArray[np.int64],
) -> int:  # fmt: skip
    mask = np.uint64(len(blocks) - 1)
    count = 0
    for anchor in range(len(hashes)):
        bits = _bits(hashes[anchor])
        if blocks[hashes[anchor] & mask] & bits == bits:
            for window in range(begins[anchor], ends[anchor]):
                windows[count] = window
                count += 1
    return count


def windows_in_filter(anchors: Anchors, blocks: NDArray[np.uint64]) -> NDArray[np.int64]:
    """First words (windows,), ascending, of the windows whose anchor is in the filter."""
    windows = np.empty(int((anchors.ends - anchors.begins).sum()), np.int64)
    return windows[: _windows(*anchors, blocks, windows)]
