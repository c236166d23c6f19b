"""Shingles: hashes of the word n-grams of each document, in text order."""

import numba
import numpy as np
from numpy.typing import NDArray

_RADIX = np.uint64(0x9FB21C651E98DF25)  # odd, of mixed bits; where the polynomials are evaluated
SIGNATURE = np.uint64(0xD6E8FEB86659FD93)
"""Takes the 32 bits of a polynomial by which signatures know a shingle."""

PROOF = np.uint64(0x9E3779B97F4A7C15)
"""Takes others, by which verification does: shingles that signatures confuse are not confused again."""

_32 = np.uint64(32)


@numba.njit(nogil=True, cache=True, inline="always")
def shingle_hash(state: np.uint64) -> np.uint64:
    """The 32 bits of a polynomial's value by which signatures know a shingle."""
    return ((state ^ (state >> _32)) * SIGNATURE) >> _32


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
def _write_hashes(states: NDArray[np.uint64], multiplier: np.uint64, hashes: NDArray[np.uint32]) -> None:
    for place in range(len(states)):
        hashes[place] = ((states[place] ^ (states[place] >> _32)) * multiplier) >> _32


@numba.njit(nogil=True, cache=True)
def _shingle_hashes(
    offsets: NDArray[np.int64],
    words: NDArray[np.uint64],
    length: int,
    multiplier: np.uint64,
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
            _write_hashes(states, multiplier, hashes[count : count + len(states)])
            count += len(states)
        shingle_offsets[text + 1] = count
    return count


def shingle_hashes(
    offsets: NDArray[np.int64], words: NDArray[np.uint64], length: int, multiplier: np.uint64 = SIGNATURE
) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    """32-bit hashes of every `length` consecutive words: offsets (n + 1,) into the hashes (shingles,), in text order.

    A document of fewer words has one shingle of them all, an empty one has none. `offsets` and `words` are what
    `word_hashes` returns. Repeated shingles are repeated. `multiplier` is SIGNATURE or PROOF.
    """
    shingle_offsets = np.empty(len(offsets), np.int64)
    hashes = np.empty(len(words), np.uint32)
    count = _shingle_hashes(offsets, words, length, multiplier, shingle_offsets, hashes)
    return shingle_offsets, hashes[:count]
