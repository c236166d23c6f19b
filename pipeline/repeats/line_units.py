"""The lines, paragraphs and sentence spans of each text: where they stand, and a hash of their normalised words.

Words, lines, paragraphs and sentences are those of `pipeline.text.scan` and `pipeline.text.records`. A unit reaches
from its first character that is not white space to its last. Its hash depends on its words alone: case, punctuation and
white space make no difference. Among n distinct units a given one shares its 64 bits with another one by chance with
probability n / 2^64: for 10^10 units, 5e-10.
"""

from functools import cache
from typing import Final, NamedTuple

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.text.arrow import utf8_view
from pipeline.text.scan import (
    ENDS,
    EXTENDS,
    IN_WORD,
    JOINS,
    NO_WORD,
    SEED,
    STATE_MASK,
    TRANSITIONS,
    decode,
    finish,
    mix,
)
from pipeline.text.tables import (
    CLASS_MASK,
    CLASS_SHIFT,
    CLOSER,
    FOLD_MASK,
    LOWER,
    SCRIPT_SHIFT,
    SEPARATOR,
    SPACE,
    TABLE,
    TERMINATOR,
    TRAITS,
    WIDE_TERMINATOR,
    WORD,
)

LINE: Final = 0
PARAGRAPH: Final = 1
SENTENCE: Final = 2
KINDS: Final = {"line": LINE, "paragraph": PARAGRAPH, "sentences": SENTENCE}

_LINE_FEED: Final = 0x0A
_SPREAD: Final = np.uint64(0x9E3779B97F4A7C15)
_32: Final = np.uint64(32)

# Sentence states, as in `pipeline.text.records`.
_OUTSIDE: Final = 0
_INSIDE: Final = 1
_TERMINATED: Final = 2
_SPACED: Final = 3  # terminated, and white space after it
_WIDE: Final = 4  # ended by a wide terminator: over with the next character that is not a closer


class Units(NamedTuple):
    """The units of some texts, in order: those of text i are offsets[i]:offsets[i + 1]."""

    offsets: NDArray[np.int64]  # (texts + 1,)
    begins: NDArray[np.int64]  # (units,): first byte in the text
    ends: NDArray[np.int64]  # (units,): after the last byte
    hashes: NDArray[np.uint64]  # (units,)
    later: NDArray[np.bool_]  # (units,): whether the same unit stands earlier in the same text


@cache
def _table_of_zeros() -> NDArray[np.uint32]:
    """TABLE, with every decimal digit of any script folded to 0."""
    table = TABLE.copy()
    kinds, scripts = (TABLE >> CLASS_SHIFT) & CLASS_MASK, TABLE >> SCRIPT_SHIFT
    for point in np.flatnonzero((kinds == WORD) & (scripts == 0)).tolist():  # numbers, and letters without a script
        if chr(point).isdecimal():
            table[point] = ord("0") | WORD << CLASS_SHIFT
    table.flags.writeable = False  # as TABLE: one specialisation of the kernel
    return table


@numba.njit(nogil=True, cache=True)
def _pieces(
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    table: NDArray[np.uint32],
    traits: NDArray[np.uint8],
    transitions: NDArray[np.uint8],
    unit: int,
    minimum_words: int,
    offsets: NDArray[np.int64],
    begins: NDArray[np.int64],
    stops: NDArray[np.int64],
    hashes: NDArray[np.uint64],
    words: NDArray[np.int64],
) -> int:
    """Lines, paragraphs or single sentences of at least `minimum_words` (>= 1); `words` is written for sentences."""
    found = 0
    offsets[0] = 0
    for document in range(len(starts)):
        start = starts[document]
        end = ends[document]
        state = np.int64(NO_WORD)
        sentence = np.int64(_OUTSIDE)
        open_ = False  # whether the unit has begun
        blank = True  # the line up to here
        begin = last = start
        count = np.int64(0)
        value = word = SEED
        at = start
        while at <= end:
            if at == end:
                point, after = np.int64(_LINE_FEED), at + 1  # closes what is open
            else:
                point, after = decode(data, at, end)
            entry = np.int64(table[point])
            trait = np.int64(traits[point])
            kind = (entry >> CLASS_SHIFT) & CLASS_MASK
            action = np.int64(transitions[state, kind])
            state = action & STATE_MASK
            if action & ENDS:
                value = mix(value, np.int64(word))
                count += 1
                word = SEED
            over = False
            if trait & SPACE:
                if point == _LINE_FEED:
                    over = unit != PARAGRAPH or blank or at == end
                    blank = True
                    sentence = np.int64(_OUTSIDE)
                elif sentence == _TERMINATED:
                    sentence = np.int64(_SPACED)
            elif unit == SENTENCE and (sentence != _INSIDE or kind == SEPARATOR):
                if (sentence == _SPACED and not trait & LOWER) or (
                    sentence == _WIDE and not trait & (TERMINATOR | CLOSER)
                ):
                    over = True
                    sentence = np.int64(_OUTSIDE)
                if action & EXTENDS:
                    sentence = np.int64(_INSIDE)
                elif sentence != _OUTSIDE:
                    if trait & WIDE_TERMINATOR:
                        sentence = np.int64(_WIDE)
                    elif sentence != _WIDE:
                        if trait & TERMINATOR:
                            sentence = np.int64(_TERMINATED)
                        elif not (sentence == _TERMINATED and trait & CLOSER):
                            sentence = np.int64(_INSIDE)
            if over:
                if count >= minimum_words:
                    begins[found] = begin - start
                    stops[found] = last - start
                    hashes[found] = finish(value)
                    if unit == SENTENCE:
                        words[found] = count
                    found += 1
                open_ = False
                count = np.int64(0)
                value = SEED
            if trait & SPACE:
                at = after
                continue
            blank = False
            if not open_:
                open_ = True
                begin = at
            at = after
            if action & JOINS:
                word = mix(word, 0x27)
            if action & EXTENDS:
                word = mix(word, entry & FOLD_MASK)
            if state == IN_WORD:
                # Most of all text: the rest of a word of ASCII, and further ones after single spaces.
                while at < end and data[at] < 0x80:
                    entry = np.int64(table[data[at]])
                    if (entry >> CLASS_SHIFT) & CLASS_MASK == WORD:
                        word = mix(word, entry & FOLD_MASK)
                        at += 1
                        continue
                    if data[at] != 0x20 or at + 1 >= end or data[at + 1] >= 0x80:
                        break
                    entry = np.int64(table[data[at + 1]])
                    if (entry >> CLASS_SHIFT) & CLASS_MASK != WORD:
                        break
                    value = mix(value, np.int64(word))
                    count += 1
                    word = mix(SEED, entry & FOLD_MASK)
                    at += 2
            last = at
        offsets[document + 1] = found
    return found


@numba.njit(nogil=True, cache=True)
def _windows(
    offsets: NDArray[np.int64],
    begins: NDArray[np.int64],
    ends: NDArray[np.int64],
    hashes: NDArray[np.uint64],
    words: NDArray[np.int64],
    size: int,
    minimum_words: int,
) -> int:
    """Replace sentences by all spans of `size` sentences in a row, in place."""
    found = 0
    first = offsets[0]
    for document in range(len(offsets) - 1):
        stop = offsets[document + 1]
        for sentence in range(first, stop - size + 1):
            value = SEED
            count = np.int64(0)
            for at in range(sentence, sentence + size):
                value = mix(value, np.int64(hashes[at]))
                count += words[at]
            if count >= minimum_words:  # never overtakes what is still to be read
                begins[found] = begins[sentence]
                ends[found] = ends[sentence + size - 1]
                hashes[found] = finish(value)
                found += 1
        first = stop
        offsets[document + 1] = found
    return found


@numba.njit(nogil=True, cache=True)
def _mark_later(offsets: NDArray[np.int64], hashes: NDArray[np.uint64], later: NDArray[np.bool_]) -> None:
    most = np.int64(0)
    for document in range(len(offsets) - 1):
        most = max(most, offsets[document + 1] - offsets[document])
    size = 16
    while size < 2 * most:
        size *= 2
    slots = np.empty(size, np.int64)
    for document in range(len(offsets) - 1):
        begin, end = offsets[document], offsets[document + 1]
        used = 16
        while used < 2 * (end - begin):
            used *= 2
        slots[:used] = -1
        mask = np.uint64(used - 1)
        for at in range(begin, end):
            slot = ((hashes[at] * _SPREAD) >> _32) & mask
            while slots[slot] >= 0 and hashes[slots[slot]] != hashes[at]:
                slot = (slot + np.uint64(1)) & mask
            later[at] = slots[slot] >= 0
            if slots[slot] < 0:
                slots[slot] = at


def find_units(texts: pa.Array, unit: str, sentences: int, minimum_words: int, unify_digits: bool) -> Units:
    """Units of a kind in KINDS with at least `minimum_words` words (at least 1), in the order of their beginnings.

    `sentences` is the length of the spans where unit is `sentences`; these overlap, and a text of fewer has none.
    Raises TypeError where `texts` is neither string nor large_string.
    """
    view = utf8_view(texts)
    kind = KINDS[unit]
    least = 1 if kind == SENTENCE else minimum_words
    # A word takes two bytes or more, the white space after it counted, and one at the end of a text.
    most = int(((view.ends - view.starts + 1) // (2 * least)).sum())
    offsets = np.empty(len(view.starts) + 1, np.int64)
    begins, ends = np.empty(most, np.int64), np.empty(most, np.int64)
    hashes = np.empty(most, np.uint64)
    words = np.empty(most if kind == SENTENCE else 0, np.int64)
    table = _table_of_zeros() if unify_digits else TABLE
    places = (offsets, begins, ends, hashes, words)
    found = _pieces(view.data, view.starts, view.ends, table, TRAITS, TRANSITIONS, kind, least, *places)
    if kind == SENTENCE:
        found = _windows(*places, sentences, minimum_words)
    for array in (begins, ends, hashes):
        array.resize(found, refcheck=False)  # gives the unused end back without a copy
    later = np.empty(found, np.bool_)
    _mark_later(offsets, hashes, later)
    return Units(offsets, begins, ends, hashes, later)
