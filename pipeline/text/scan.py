"""The scan of UTF-8 bytes into words, and the hashes of words that shingles are made of.

A word is
- a run of letters, marks and numbers of scripts written with spaces (Hangul among them); an apostrophe between two such
  runs belongs to the word;
- each single letter of a script written without spaces (Han, kana, Thai, Lao, Khmer, Myanmar, ...), with its marks.
Everything else separates words, but format characters (soft hyphens, joiners, direction marks), which are passed over.
Words are normalised by simple case folding, and by writing each apostrophe as U+0027.

The rule is data, the table TRANSITIONS: every kernel that needs words walks it.
"""

from typing import Any, Final

import numba
import numpy as np
import pyarrow as pa
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
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
def mix(state: np.uint64, value: int | np.integer) -> np.uint64:
    """One step of the word hash: a bijection of the state for every value."""
    state = (state ^ np.uint64(value)) * _MULTIPLIER
    return state ^ (state >> _32)


@numba.njit(nogil=True, cache=True, inline="always")
def finish(state: np.uint64) -> np.uint64:
    """The last step of the word hash, after which every bit depends on every character."""
    state = (state ^ (state >> _29)) * _FINAL
    return state ^ (state >> _32)


# `_word_hashes` goes over ASCII 64 bytes at a time: bit masks say where words begin and end, the first letters of each
# word wait as they are in the place of its hash, and the hashes of many words are then computed side by side. The other
# characters, and ASCII words that touch them, are scanned one by one by the rule.
_BLOCK: Final = 64
_LETTERS: Final = 8  # of a word, in one integer
_READ: Final = _BLOCK + _LETTERS  # bytes from the beginning of a block that may be looked at
_TOGETHER: Final = 512  # words hashed side by side

_BYTES: Final = np.uint64(0x0101010101010101)
_HIGH: Final = np.uint64(0x8080808080808080)
_LOW: Final = np.uint64(0x7F7F7F7F7F7F7F7F)
_CASE: Final = np.uint64(0x2020202020202020)  # set in small letters, digits and the apostrophe
_APOSTROPHES: Final = np.uint64(0x2727272727272727)
_FROM_A: Final = _BYTES * np.uint64(0x80 - ord("a"))  # added to a byte below 0x80, sets its high bit from `a` on
_ABOVE_Z: Final = _BYTES * np.uint64(0x7F - ord("z"))
_FROM_0: Final = _BYTES * np.uint64(0x80 - ord("0"))
_ABOVE_9: Final = _BYTES * np.uint64(0x7F - ord("9"))
_GATHER: Final = np.uint64(0x0102040810204080)
_0: Final = np.uint64(0)
_1: Final = np.uint64(1)
_2: Final = np.uint64(2)
_7: Final = np.uint64(7)
_8: Final = np.uint64(8)
_56: Final = np.uint64(56)
_FF: Final = np.uint64(0xFF)


def _trailing_zeros_of(typing_context: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), generate


def _load_from(typing_context: Any, data: Any, at: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        pointer = builder.gep(array.data, [arguments[1]])
        return builder.load(builder.bitcast(pointer, ir.IntType(64).as_pointer()), align=1)

    return types.uint64(data, types.int64), generate


# Number of zero bits below the lowest one of a uint64; 64 where there is none.
_trailing_zeros: Final[Any] = intrinsic(_trailing_zeros_of)

# The 8 bytes data[at:at + 8] as a uint64, the first one lowest, whatever their alignment. The bounds are not checked.
_load: Final[Any] = intrinsic(_load_from)


@numba.njit(nogil=True, cache=True, inline="always")
def _gather(high_bits: np.uint64) -> np.uint64:
    # The high bits of 8 bytes, of which the others are zero, as 8 bits.
    return ((high_bits >> _7) * _GATHER) >> _56


@numba.njit(nogil=True, cache=True, inline="always")
def _ascii_masks(data: NDArray[np.uint8], at: np.int64) -> tuple[np.uint64, np.uint64, np.uint64]:
    """Bit masks of the 64 bytes from `at`: letters and digits of ASCII; apostrophes; bytes beyond ASCII.

    The first two hold up to the first byte beyond ASCII.
    """
    words = apostrophes = beyond = _0
    for part in range(0, _BLOCK, 8):
        loaded = _load(data, at + part)
        low = loaded & _LOW
        folded = low | _CASE
        letters = (folded + _FROM_A) & ~(folded + _ABOVE_Z)
        digits = (low + _FROM_0) & ~(low + _ABOVE_9)
        others = (low ^ _APOSTROPHES) + _LOW  # the high bit is clear where the byte is an apostrophe
        place = np.uint64(part)
        words |= _gather((letters | digits) & _HIGH) << place
        apostrophes |= _gather(~others & _HIGH) << place
        beyond |= _gather(loaded & _HIGH) << place
    return words, apostrophes, beyond


@numba.njit(nogil=True, cache=True, inline="always")
def _mix_letters(word: np.uint64, letters: np.uint64, count: np.uint64) -> np.uint64:
    # Up to 8 letters, without a branch on how many: that cannot be predicted, and it keeps words side by side.
    for letter in range(_LETTERS):
        mixed = mix(word, (letters >> np.uint64(8 * letter)) & _FF)
        word = mixed if np.uint64(letter) < count else word
    return word


@numba.njit(nogil=True, cache=True)
def _hash_block(hashes: NDArray[np.uint64], lengths: NDArray[np.uint8]) -> None:
    some = np.uint8(0)
    for place in range(len(hashes)):
        some |= lengths[place]
    if some == 0:
        for place in range(len(hashes)):
            hashes[place] = finish(hashes[place])
        return
    for place in range(len(hashes)):
        length = np.uint64(lengths[place])
        letters = hashes[place]
        word = _mix_letters(SEED, letters, length)
        finished = finish(letters if length == _0 else word)
        hashes[place] = word if length > _8 else finished
        lengths[place] = 0


@numba.njit(nogil=True, cache=True)
def _hash_words(hashes: NDArray[np.uint64], lengths: NDArray[np.uint8]) -> None:
    """Finish hashes in place, and set `lengths` to 0.

    Where the length is 0, the scan has mixed the characters already. Else the place holds the first 8 letters; of a
    word of more it gets the state after these.
    """
    for start in range(0, len(hashes), _TOGETHER):
        _hash_block(hashes[start : start + _TOGETHER], lengths[start : start + _TOGETHER])


@numba.njit(nogil=True, cache=True)
def _hash_long_words(data: NDArray[np.uint8], hashes: NDArray[np.uint64], long: NDArray[np.int64]) -> None:
    """Finish the hashes of words of more than 8 letters; `long` (words, 3): place, ninth letter, end."""
    for number in range(len(long)):
        place, at, end = long[number]
        word = hashes[place]
        while at < end:
            word = _mix_letters(word, _load(data, at) | _CASE, np.uint64(end - at))
            at += _LETTERS
        hashes[place] = finish(word)


@numba.njit(nogil=True, cache=True, inline="always")
def _is_ascii(data: NDArray[np.uint8], at: np.int64, end: np.int64) -> bool:
    return bool(at + 8 <= end and _load(data, at) & _HIGH == _0)


@numba.njit(nogil=True, cache=True)
def _scan_words(
    data: NDArray[np.uint8],
    at: np.int64,
    end: np.int64,
    table: NDArray[np.uint32],
    transitions: NDArray[np.uint8],
    hashes: NDArray[np.uint64],
    count: np.int64,
) -> tuple[np.int64, np.int64]:
    """Scan from outside of words until outside of words before ASCII, or until the end; where that is, and the count.

    Each hash of hashes[count:] lacks its last step. One is written ahead.
    """
    state = np.int64(NO_WORD)
    word = SEED
    while at < end:
        point = np.int64(data[at])
        if point < 0x80:
            at += 1
        else:
            point, at = decode(data, at, end)
        entry = np.int64(table[point])
        kind = (entry >> CLASS_SHIFT) & CLASS_MASK
        if kind == UNSPACED:  # a word of its own after anything
            count += state != NO_WORD
            word = mix(SEED, entry & FOLD_MASK)
            hashes[count] = word
            state = np.int64(IN_UNSPACED)
            continue
        if (kind | state) <= IN_WORD:
            # Letters and separators, without a branch on which: where a word ends cannot be predicted.
            count += state & ~kind
            mixed = mix(word, entry & FOLD_MASK)
            word = mixed if kind == WORD else SEED
            hashes[count] = word
            state = kind
        else:
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
        if state == NO_WORD and _is_ascii(data, at, end):
            return at, count
    return at, count + (state != NO_WORD)


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
    longest = np.int64(0)
    for document in range(len(starts)):
        longest = max(longest, ends[document] - starts[document])
    lengths = np.zeros(longest // 2 + 2, np.uint8)
    long = np.empty((longest // (_LETTERS + 2) + 2, 3), np.int64)
    count = np.int64(0)
    offsets[0] = 0
    for document in range(len(starts)):
        at = starts[document]
        end = ends[document]
        first = count
        longs = np.int64(0)
        while at < end:
            if at + _READ <= len(data):
                words, apostrophes, beyond = _ascii_masks(data, at)
                limit = min(_trailing_zeros(beyond), end - at)  # at least 1 byte, or the first is beyond ASCII
                inside = (_2 << np.uint64(limit - 1)) - _1 if limit > 0 else _0
                words &= inside
                # An apostrophe between letters joins them; one at the limit keeps its word open.
                words |= apostrophes & inside & (words << _1) & ((words >> _1) | ~(inside >> _1))
                word_starts = words & ~(words << _1)
                word_ends = (words << _1) & ~words & inside
                while word_ends != _0:
                    start = _trailing_zeros(word_starts)
                    length = _trailing_zeros(word_ends) - start
                    word_starts &= word_starts - _1
                    word_ends &= word_ends - _1
                    hashes[count] = _load(data, at + start) | _CASE
                    lengths[count - first] = length
                    long[longs, 0] = count
                    long[longs, 1] = at + start + _LETTERS
                    long[longs, 2] = at + start + length
                    longs += length > _LETTERS
                    count += 1
                # What is left is a word that reaches the limit: it is read again from its start.
                step = _trailing_zeros(word_starts) if word_starts != _0 else limit
                at += step
                if limit == _BLOCK and step > 0:
                    continue
                if at == end:
                    break
            at, count = _scan_words(data, at, end, table, transitions, hashes, count)
        _hash_words(hashes[first:count], lengths[: count - first])
        _hash_long_words(data, hashes, long[:longs])
        offsets[document + 1] = count
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
