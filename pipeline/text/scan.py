"""The scan of UTF-8 bytes into words, and the hashes of words that shingles are made of.

A word is
- a run of letters, marks and numbers of scripts written with spaces (Hangul among them); an apostrophe between two such
  runs belongs to the word;
- each single letter of a script written without spaces (Han, kana, Thai, Lao, Khmer, Myanmar, ...), with the marks on it.
Everything else separates words, but format characters (soft hyphens, joiners, direction marks), which are passed over.
Words are normalised by simple case folding, and by writing each apostrophe as U+0027.
"""

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.text.arrow import Utf8View, utf8_views
from pipeline.text.tables import (
    APOSTROPHE,
    CLASS_MASK,
    CLASS_SHIFT,
    FOLD_MASK,
    IGNORABLE,
    MARK,
    SEPARATOR,
    TABLE,
    UNSPACED,
    WORD,
)

# Increase when a kernel of this module gives another result: it belongs into the identity of what is computed with it.
SCAN_VERSION = 1

REPLACEMENT = 0xFFFD  # what bytes that are not UTF-8 are read as

_SEED = np.uint64(0x9E3779B97F4A7C15)  # the golden ratio; any odd constants of mixed bits would do
_MULTIPLIER = np.uint64(0xBF58476D1CE4E5B9)
_FINAL = np.uint64(0x94D049BB133111EB)
_32 = np.uint64(32)
_29 = np.uint64(29)


@numba.njit(nogil=True, cache=True, inline="always")
def decode(data: NDArray[np.uint8], at: int, end: int) -> tuple[int, int]:
    """Code point at data[at] and the position after it, never reading at or beyond `end`.

    A sequence cut off by `end`, or a stray continuation byte, is REPLACEMENT and one byte long.
    """
    lead = np.int64(data[at])
    if lead < 0x80:
        return lead, at + 1
    if 0xE0 <= lead < 0xF0 and at + 2 < end:
        return ((lead & 0xF) << 12) | ((np.int64(data[at + 1]) & 0x3F) << 6) | (np.int64(data[at + 2]) & 0x3F), at + 3
    if 0xC0 <= lead < 0xE0 and at + 1 < end:
        return ((lead & 0x1F) << 6) | (np.int64(data[at + 1]) & 0x3F), at + 2
    if 0xF0 <= lead < 0xF5 and at + 3 < end:
        point = (
            ((lead & 0x7) << 18)
            | ((np.int64(data[at + 1]) & 0x3F) << 12)
            | ((np.int64(data[at + 2]) & 0x3F) << 6)
            | (np.int64(data[at + 3]) & 0x3F)
        )
        return min(point, 0x10FFFF), at + 4
    return REPLACEMENT, at + 1


@numba.njit(nogil=True, cache=True, inline="always")
def mix(state: np.uint64, value: int) -> np.uint64:
    """One step of the word hash: a bijection of the state for every value."""
    state = (state ^ np.uint64(value)) * _MULTIPLIER
    return state ^ (state >> _32)


@numba.njit(nogil=True, cache=True, inline="always")
def finish(state: np.uint64) -> np.uint64:
    """The last step of the word hash, after which every bit depends on every character."""
    state = (state ^ (state >> _29)) * _FINAL
    return state ^ (state >> _32)


@numba.njit(nogil=True, cache=True)
def _word_hashes(
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    table: NDArray[np.uint32],
    offsets: NDArray[np.int64],
    hashes: NDArray[np.uint64],
) -> int:
    count = 0
    offsets[0] = 0
    for document in range(len(starts)):
        at = starts[document]
        end = ends[document]
        last = SEPARATOR  # what the open word ended in so far: SEPARATOR (none is open), WORD, UNSPACED or APOSTROPHE
        state = _SEED  # of the open word; the seed where none is open
        while at < end:
            lead = np.int64(data[at])
            entry = np.int64(table[lead])
            kind = (entry >> CLASS_SHIFT) & CLASS_MASK
            if lead < 0x80 and (kind | last) <= WORD:
                # Plain words and separators without a branch on which: the end of a word cannot be predicted.
                count += last & ~kind
                mixed = mix(state, entry & FOLD_MASK)
                state = mixed if kind == WORD else _SEED
                hashes[count] = state
                last = kind
                at += 1
                continue
            if lead >= 0x80:
                point, at = decode(data, at, end)
                entry = np.int64(table[point])
                kind = (entry >> CLASS_SHIFT) & CLASS_MASK
            else:
                at += 1
            if kind == IGNORABLE:
                continue
            if kind == APOSTROPHE and last == WORD:
                last = APOSTROPHE
                continue
            if kind == MARK and (last == WORD or last == UNSPACED):
                kind = last
            elif kind == WORD and last == APOSTROPHE:
                state = mix(state, 0x27)
            elif kind != WORD or last != WORD:
                count += last != SEPARATOR
                state = _SEED
            if kind == WORD or kind == UNSPACED:
                state = mix(state, entry & FOLD_MASK)
                hashes[count] = state
                last = kind
            else:
                last = SEPARATOR
        count += last != SEPARATOR
        offsets[document + 1] = count
    for word in range(count):
        hashes[word] = finish(hashes[word])
    return count


def _most_words(view: Utf8View) -> int:
    # Two neighbouring words have a separating byte between them, or one is unspaced and of two or more bytes.
    return int(((view.ends - view.starts + 1) // 2).sum())


def word_hashes(texts: pa.Array | pa.ChunkedArray) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """64-bit hashes of the normalised words of each text: offsets (n + 1,) into the hashes (words,).

    The words of text i are hashes[offsets[i]:offsets[i + 1]], in order. Nulls are empty texts. The hash is the same on
    every machine and run; it is not keyed, so it is no defence against texts made to collide.
    Raises TypeError where `texts` is neither string nor large_string.
    """
    parts = [(np.zeros(1, np.int64), np.zeros(0, np.uint64))]
    for view in utf8_views(texts):
        offsets = np.empty(len(view.starts) + 1, np.int64)
        hashes = np.empty(_most_words(view) + 1, np.uint64)  # the scan writes one ahead
        count = _word_hashes(view.data, view.starts, view.ends, TABLE, offsets, hashes)
        hashes.resize(count, refcheck=False)  # gives the unused end back without a copy
        parts.append((offsets, hashes))
    if len(parts) == 2:
        return parts[1]
    bases = np.cumsum([0, *(len(hashes) for _, hashes in parts[:-1])])
    offsets = np.concatenate([parts[0][0], *(part[1:] + base for (part, _), base in zip(parts[1:], bases[1:], strict=True))])
    return offsets, np.concatenate([hashes for _, hashes in parts])
