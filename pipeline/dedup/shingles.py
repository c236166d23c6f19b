"""Shingles: hashes of the word n-grams of each document, in order (for signatures) or as sets (for verification)."""

import numba
import numpy as np
from numpy.typing import NDArray

_RADIX = np.uint64(0x9FB21C651E98DF25)  # odd, of mixed bits; where the polynomials are evaluated
_FINAL = np.uint64(0xD6E8FEB86659FD93)
_32 = np.uint64(32)
_FEW = 48  # up to so many, insertion beats the radix sort's counters


@numba.njit(nogil=True, cache=True, inline="always")
def shingle_hash(state: np.uint64) -> np.uint64:
    """The 32 bits of a polynomial's value by which a shingle is known."""
    return ((state ^ (state >> _32)) * _FINAL) >> _32


@numba.njit(nogil=True, cache=True)
def _weigh(left: NDArray[np.uint64], weight: np.uint64, right: NDArray[np.uint64], target: NDArray[np.uint64]) -> None:
    for place in range(len(target)):
        target[place] = left[place] * weight + right[place]


@numba.njit(nogil=True, cache=True)
def polynomials(
    words: NDArray[np.uint64], length: int, first: NDArray[np.uint64], second: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    """Polynomial of every `length` consecutive words of a text of at least so many, modulo 2^64.

    Those of 2, 4, 8, ... words are made of the ones of half as many, and the last ones added by the bits of `length`:
    unlike a rolling sum, all places at once. `first` and `second` have room for the words; the result (words - length
    + 1,) lies in one of them.
    """
    count = len(words)
    first[:count] = words
    span = 1
    power = _RADIX  # to the span
    bit = 1
    while 2 * bit <= length:
        bit *= 2
    while bit > 1:
        bit //= 2
        last = count - 2 * span + 1
        _weigh(first[:last], power, first[span : span + last], second[:last])
        first, second = second, first
        span *= 2
        power *= power
        if length & bit:
            last = count - span
            _weigh(first[:last], _RADIX, words[span : span + last], second[:last])
            first, second = second, first
            span += 1
            power *= _RADIX
    return first[: count - length + 1]


@numba.njit(nogil=True, cache=True)
def most_words(offsets: NDArray[np.int64]) -> int:
    """Words of the longest text."""
    most = 0
    for text in range(len(offsets) - 1):
        most = max(most, offsets[text + 1] - offsets[text])
    return most


@numba.njit(nogil=True, cache=True)
def _write_hashes(states: NDArray[np.uint64], hashes: NDArray[np.uint32]) -> None:
    for place in range(len(states)):
        hashes[place] = shingle_hash(states[place])


@numba.njit(nogil=True, cache=True)
def _shingle_hashes(
    offsets: NDArray[np.int64],
    words: NDArray[np.uint64],
    length: int,
    shingle_offsets: NDArray[np.int64],
    hashes: NDArray[np.uint32],
) -> int:
    most = most_words(offsets)
    first = np.empty(most, np.uint64)
    second = np.empty(most, np.uint64)
    count = 0
    shingle_offsets[0] = 0
    for text in range(len(offsets) - 1):
        own = words[offsets[text] : offsets[text + 1]]
        if len(own):
            states = polynomials(own, min(length, len(own)), first, second)
            _write_hashes(states, hashes[count : count + len(states)])
            count += len(states)
        shingle_offsets[text + 1] = count
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
