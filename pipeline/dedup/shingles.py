"""Shingles: hashes of the word n-grams of each document, in order (for signatures) or as sets (for verification)."""

import numba
import numpy as np
from numpy.typing import NDArray

_RADIX = np.uint64(0x9FB21C651E98DF25)  # odd, of mixed bits; the base of the rolling polynomial
_FINAL = np.uint64(0xD6E8FEB86659FD93)
_32 = np.uint64(32)
_FEW = 48  # up to so many, insertion beats the radix sort's counters


@numba.njit(nogil=True, cache=True)
def _shingle_hashes(
    offsets: NDArray[np.int64],
    words: NDArray[np.uint64],
    length: int,
    shingle_offsets: NDArray[np.int64],
    hashes: NDArray[np.uint32],
) -> int:
    leaving = np.uint64(1)
    for _ in range(length):
        leaving *= _RADIX
    count = 0
    shingle_offsets[0] = 0
    for document in range(len(offsets) - 1):
        start = offsets[document]
        end = offsets[document + 1]
        state = np.uint64(0)
        for word in range(start, min(start + length, end)):
            state = state * _RADIX + words[word]
        if end > start:
            hashes[count] = ((state ^ (state >> _32)) * _FINAL) >> _32
            count += 1
        for word in range(start + length, end):
            state = state * _RADIX + words[word] - words[word - length] * leaving
            hashes[count] = ((state ^ (state >> _32)) * _FINAL) >> _32
            count += 1
        shingle_offsets[document + 1] = count
    return count


def shingle_hashes(
    offsets: NDArray[np.int64], words: NDArray[np.uint64], length: int
) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    """32-bit hashes of every `length` consecutive words: offsets (n + 1,) into the hashes (shingles,), in text order.

    A document of fewer words has one shingle of them all, an empty one has none. `offsets` and `words` are what
    `word_hashes` returns. Repeated shingles are repeated.
    """
    shingle_offsets = np.empty(len(offsets), np.int64)
    hashes = np.empty(len(words), np.uint32)
    count = _shingle_hashes(offsets, words, length, shingle_offsets, hashes)
    return shingle_offsets, hashes[:count]


@numba.njit(nogil=True, cache=True)
def _insertion_sort(values: NDArray[np.uint32]) -> None:
    for end in range(1, len(values)):
        value = values[end]
        at = end
        while at > 0 and values[at - 1] > value:
            values[at] = values[at - 1]
            at -= 1
        values[at] = value


@numba.njit(nogil=True, cache=True)
def _radix_sort(values: NDArray[np.uint32], other: NDArray[np.uint32], counts: NDArray[np.int64]) -> None:
    counts[:] = 0
    for value in values:
        for digit in range(4):
            counts[digit, (value >> np.uint32(8 * digit)) & np.uint32(255)] += 1
    for digit in range(4):
        source, target = (values, other) if digit % 2 == 0 else (other, values)
        place = 0
        for bucket in range(256):
            size = counts[digit, bucket]
            counts[digit, bucket] = place
            place += size
        for value in source:
            bucket = (value >> np.uint32(8 * digit)) & np.uint32(255)
            target[counts[digit, bucket]] = value
            counts[digit, bucket] += 1


@numba.njit(nogil=True, cache=True)
def _distinct(offsets: NDArray[np.int64], hashes: NDArray[np.uint32], bounds: NDArray[np.int64]) -> int:
    counts = np.empty((4, 256), np.int64)
    longest = 0
    for document in range(len(offsets) - 1):
        longest = max(longest, offsets[document + 1] - offsets[document])
    other = np.empty(longest, np.uint32)
    count = 0
    bounds[0] = 0
    for document in range(len(offsets) - 1):
        values = hashes[offsets[document] : offsets[document + 1]]
        if len(values) <= _FEW:
            _insertion_sort(values)
        else:
            _radix_sort(values, other[: len(values)], counts)
        for at in range(len(values)):
            if at == 0 or values[at] != values[at - 1]:
                hashes[count] = values[at]  # never overtakes what is still to be read
                count += 1
        bounds[document + 1] = count
    return count


def shingle_sets(
    offsets: NDArray[np.int64], words: NDArray[np.uint64], length: int
) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    """As `shingle_hashes`, but each document's hashes are distinct and ascend."""
    shingle_offsets, hashes = shingle_hashes(offsets, words, length)
    bounds = np.empty(len(offsets), np.int64)
    count = _distinct(shingle_offsets, hashes, bounds)
    return bounds, hashes[:count]
