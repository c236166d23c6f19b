"""The scan of UTF-8 bytes into words, and the hashes of words that shingles are made of.

A word is
- a run of letters, marks and numbers of scripts written with spaces (Hangul among them); an apostrophe between two such
  runs belongs to the word;
- each single letter of a script written without spaces (Han, kana, Thai, Lao, Khmer, Myanmar, ...), with its marks.
Everything else separates words, but format characters (soft hyphens, joiners, direction marks), which are passed over.
Words are normalised by simple case folding, and by writing each apostrophe as U+0027.

The rule is data, the table TRANSITIONS: every kernel that needs words walks it.
"""

from typing import Final

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

# Increase when a kernel gives another result for the same text: it belongs into the identity of what is computed here.
SCAN_VERSION: Final = 1

# States of the scan: what the open word ended in so far.
NO_WORD: Final = 0
IN_WORD: Final = 1
IN_UNSPACED: Final = 2
AFTER_APOSTROPHE: Final = 3
STATE_MASK: Final = 3

# What a character does; bits above the next state.
ENDS: Final = 4  # the open word ended before this character
JOINS: Final = 8  # the apostrophe before this character belongs to the word
EXTENDS: Final = 16  # this character belongs to the word

_RULE: Final = {
    (NO_WORD, WORD): IN_WORD | EXTENDS,
    (NO_WORD, UNSPACED): IN_UNSPACED | EXTENDS,
    (IN_WORD, SEPARATOR): ENDS,
    (IN_WORD, WORD): IN_WORD | EXTENDS,
    (IN_WORD, MARK): IN_WORD | EXTENDS,
    (IN_WORD, UNSPACED): IN_UNSPACED | ENDS | EXTENDS,
    (IN_WORD, APOSTROPHE): AFTER_APOSTROPHE,
    (IN_WORD, IGNORABLE): IN_WORD,
    (IN_UNSPACED, SEPARATOR): ENDS,
    (IN_UNSPACED, WORD): IN_WORD | ENDS | EXTENDS,
    (IN_UNSPACED, MARK): IN_UNSPACED | EXTENDS,
    (IN_UNSPACED, UNSPACED): IN_UNSPACED | ENDS | EXTENDS,
    (IN_UNSPACED, APOSTROPHE): ENDS,
    (IN_UNSPACED, IGNORABLE): IN_UNSPACED,
    (AFTER_APOSTROPHE, SEPARATOR): ENDS,
    (AFTER_APOSTROPHE, WORD): IN_WORD | JOINS | EXTENDS,
    (AFTER_APOSTROPHE, MARK): ENDS,
    (AFTER_APOSTROPHE, UNSPACED): IN_UNSPACED | ENDS | EXTENDS,
    (AFTER_APOSTROPHE, APOSTROPHE): ENDS,
    (AFTER_APOSTROPHE, IGNORABLE): AFTER_APOSTROPHE,
}


def _transitions() -> NDArray[np.uint8]:
    table = np.zeros((4, CLASS_MASK + 1), np.uint8)  # what is not in the rule stays outside of words
    for (state, kind), action in _RULE.items():
        table[state, kind] = action
    table.flags.writeable = False
    return table


TRANSITIONS: Final = _transitions()

REPLACEMENT: Final = 0xFFFD  # what bytes that are not UTF-8 are read as

SEED: Final = np.uint64(0x9E3779B97F4A7C15)  # the golden ratio; any odd constants of mixed bits would do
_MULTIPLIER: Final = np.uint64(0xBF58476D1CE4E5B9)
_FINAL: Final = np.uint64(0x94D049BB133111EB)
_32: Final = np.uint64(32)
_29: Final = np.uint64(29)


@numba.njit(nogil=True, cache=True, inline="always")
def decode(data: NDArray[np.uint8], at: np.int64, end: np.int64) -> tuple[np.int64, np.int64]:
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
        return min(point, np.int64(0x10FFFF)), at + 4
    return np.int64(REPLACEMENT), at + 1


@numba.njit(nogil=True, cache=True, inline="always")
def mix(state: np.uint64, value: int | np.int64) -> np.uint64:
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
    transitions: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    hashes: NDArray[np.uint64],
) -> np.int64:
    count = np.int64(0)
    offsets[0] = 0
    for document in range(len(starts)):
        at = starts[document]
        end = ends[document]
        state = np.int64(NO_WORD)
        word = SEED
        while at < end:
            lead = np.int64(data[at])
            entry = np.int64(table[lead])
            kind = (entry >> CLASS_SHIFT) & CLASS_MASK
            if lead < 0x80 and (kind | state) <= IN_WORD:
                # Letters and separators of ASCII, without a branch on which: where a word ends cannot be predicted.
                count += state & ~kind
                mixed = mix(word, entry & FOLD_MASK)
                word = mixed if kind == WORD else SEED
                hashes[count] = word
                state = kind
                at += 1
                continue
            if lead < 0x80:
                at += 1
            else:
                point, at = decode(data, at, end)
                entry = np.int64(table[point])
                kind = (entry >> CLASS_SHIFT) & CLASS_MASK
            action = transitions[state, kind]
            state = np.int64(action & STATE_MASK)
            if action & ENDS:
                count += 1
                word = SEED
            if action & JOINS:
                word = mix(word, 0x27)
            if action & EXTENDS:
                word = mix(word, entry & FOLD_MASK)
                hashes[count] = word
        count += state != NO_WORD
        offsets[document + 1] = count
    for number in range(count):
        hashes[number] = finish(hashes[number])
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
        count = _word_hashes(view.data, view.starts, view.ends, TABLE, TRANSITIONS, offsets, hashes)
        hashes.resize(count, refcheck=False)  # gives the unused end back without a copy
        parts.append((offsets, hashes))
    if len(parts) == 2:
        return parts[1]
    bases = np.cumsum([0, *(len(hashes) for _, hashes in parts)])
    shifted = [part[1:] + base for (part, _), base in zip(parts, bases, strict=False)]
    return np.concatenate([np.zeros(1, np.int64), *shifted]), np.concatenate([hashes for _, hashes in parts])
