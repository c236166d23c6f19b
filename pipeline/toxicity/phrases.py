"""Phrases in texts: sequences of whole normalised words, found in the hashes of the words that every kernel shares.

A phrase matches where its words follow each other, whatever stands between them. Of the phrases that match at a word
the longest counts, and the next one begins after its end. The phrases form a trie whose edges lie in one hash table; a
bit set of their first words answers for most words of a text, so that they cost one look-up each.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

_SPREAD: Final = np.uint64(0x9E3779B97F4A7C15)  # an odd number of mixed bits sets the edges of the states apart
_BITS_PER_WORD: Final = 64  # of the bit set, so that few words of a text pass it by chance
_LEAST_BITS: Final = 1 << 13
_MOST_BITS: Final = 1 << 22


class Phrases(NamedTuple):
    """The trie of phrases for the kernel. All arrays are read-only; the root is state 0."""

    first: NDArray[np.uint64]  # (bits / 64,) bit set of the low bits of the first words
    words: NDArray[np.uint64]  # (slots,) word of the edge
    origins: NDArray[np.int32]  # (slots,) state that the edge leaves, -1 in an empty slot
    targets: NDArray[np.int32]  # (slots,) state that it leads to
    ends: NDArray[np.bool_]  # (states,) whether a phrase ends in the state


def compile_phrases(phrases: Iterable[tuple[int, ...]]) -> Phrases:
    """The trie of phrases, each given by the hashes of its words; the empty phrase is passed over."""
    edges: dict[tuple[int, int], int] = {}
    ends = {0: False}
    for phrase in sorted(set(phrases)):
        state = 0
        for word in phrase:
            state = edges.setdefault((state, word), len(edges) + 1)
            ends.setdefault(state, False)
        ends[state] = bool(phrase)
    size = 1 << max(4, (3 * len(edges)).bit_length())
    words, origins, targets = np.zeros(size, np.uint64), np.full(size, -1, np.int32), np.zeros(size, np.int32)
    for (origin, word), target in edges.items():
        slot = (word + origin * int(_SPREAD)) & (size - 1)
        while origins[slot] >= 0:
            slot = (slot + 1) & (size - 1)
        words[slot], origins[slot], targets[slot] = word, origin, target
    firsts = [word for origin, word in edges if origin == 0]
    arrays = (
        _bit_set(firsts),
        words,
        origins,
        targets,
        np.array([ends[state] for state in range(len(ends))], np.bool_),
    )
    for array in arrays:
        array.flags.writeable = False
    return Phrases(*arrays)


def _bit_set(words: list[int]) -> NDArray[np.uint64]:
    bits = min(max(_LEAST_BITS, 1 << (_BITS_PER_WORD * len(words)).bit_length()), _MOST_BITS)
    places = np.array(sorted(word & (bits - 1) for word in words), np.uint64)
    found = np.zeros(bits // 64, np.uint64)
    np.bitwise_or.at(found, places >> np.uint64(6), np.uint64(1) << (places & np.uint64(63)))
    return found


@numba.njit(nogil=True, cache=True)
def _longest(hashes: NDArray[np.uint64], at: np.int64, end: np.int64, phrases: Phrases) -> np.int64:
    """Words of the longest phrase that begins at hashes[at], or 0."""
    mask = np.uint64(len(phrases.words) - 1)
    state = np.int64(0)
    longest = np.int64(0)
    for word in range(at, end):
        value = hashes[word]
        slot = (value + np.uint64(state) * _SPREAD) & mask
        while phrases.origins[slot] >= 0 and not (phrases.words[slot] == value and phrases.origins[slot] == state):
            slot = (slot + np.uint64(1)) & mask
        if phrases.origins[slot] < 0:
            break
        state = np.int64(phrases.targets[slot])
        if phrases.ends[state]:
            longest = word - at + 1
    return longest


@numba.njit(nogil=True, cache=True)
def count_phrases(
    offsets: NDArray[np.int64],
    hashes: NDArray[np.uint64],
    documents: NDArray[np.int64],
    phrases: Phrases,
    matches: NDArray[np.int64],
    matched_words: NDArray[np.int64],
) -> None:
    """Add the matches in each of `documents`, and the words that they cover, to matches[document] and matched_words.

    The words of document i are hashes[offsets[i]:offsets[i + 1]].
    """
    bits = np.uint64(64 * len(phrases.first) - 1)
    for document in documents:
        at = offsets[document]
        end = offsets[document + 1]
        while at < end:
            place = hashes[at] & bits
            if not (phrases.first[place >> np.uint64(6)] >> (place & np.uint64(63))) & np.uint64(1):
                at += 1
                continue
            length = _longest(hashes, at, end, phrases)
            matches[document] += length > 0
            matched_words[document] += length
            at += max(length, np.int64(1))


class Symbols(NamedTuple):
    """Strings of bytes that hold no word (an emoji), for the kernel."""

    first: NDArray[np.int32]  # (257,) the strings that begin with byte b are number first[b] to first[b + 1]
    bounds: NDArray[np.int64]  # (strings + 1,) offsets into `data`
    data: NDArray[np.uint8]


def compile_symbols(symbols: Iterable[bytes]) -> Symbols:
    """Tables of the strings; of those that begin alike the longest is tried first."""
    strings = sorted({symbol for symbol in symbols if symbol}, key=lambda symbol: (symbol[0], -len(symbol), symbol))
    leads = np.array([symbol[0] for symbol in strings], np.int64)
    return Symbols(
        np.searchsorted(leads, np.arange(257)).astype(np.int32),
        np.cumsum([0, *map(len, strings)]),
        np.frombuffer(b"".join(strings), np.uint8),
    )


@numba.njit(nogil=True, cache=True)
def count_symbols(
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    documents: NDArray[np.int64],
    symbols: Symbols,
    matches: NDArray[np.int64],
) -> None:
    """Add the strings found in each of `documents`, from left to right and without overlap, to matches[document]."""
    for document in documents:
        at = starts[document]
        end = ends[document]
        while at < end:
            lead = np.int64(data[at])
            step = np.int64(1)
            for number in range(symbols.first[lead], symbols.first[lead + 1]):
                begin = symbols.bounds[number]
                length = symbols.bounds[number + 1] - begin
                if at + length > end:
                    continue
                same = np.int64(1)
                while same < length and data[at + same] == symbols.data[begin + same]:
                    same += 1
                if same == length:
                    matches[document] += 1
                    step = length
                    break
            at += step
