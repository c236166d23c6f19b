"""Where sentences begin, in text of any script.

A sentence ends
- at a terminator (`pipeline.text.tables`), with the terminators, quotation marks and brackets after it, before white
  space, unless a lower-case letter follows; a full stop does not end one after an initial or an abbreviation
  ("J. Smith", "Dr. Smith", "e.g. this", "No. 5") or the number of a list item ("1. First");
- at a terminator of a script without spaces ("。"), whatever follows;
- at a blank line;
- at the end of a line, where the text is not wrapped, the next word would have fitted, or a list item follows.
It has at least one word: what has none (a row of asterisks) belongs to the sentence after it. White space between two
sentences belongs to the first.

Text counts as wrapped where no line of it is wider than MOST_COLUMNS. A word would have fitted where the line with it
is not wider than FITS of the widest one; a line that ends in a comma or the like goes on all the same.
"""

from __future__ import annotations

from typing import Final

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.text.arrow import Utf8View, utf8_views
from pipeline.text.scan import SEED, decode, finish, mix, word_hashes
from pipeline.text.tables import (
    ALPHABETIC,
    BULLET,
    CLASS_MASK,
    CLASS_SHIFT,
    CLOSER,
    FOLD_MASK,
    IGNORABLE,
    LOWER,
    MARK,
    SPACE,
    TABLE,
    TERMINATOR,
    TRAITS,
    UNSPACED,
    WIDE_TERMINATOR,
    WORD,
)

SENTENCES_VERSION: Final = 1
"""Increases when other sentences come out of the same text: it belongs into the identity of what is made from them."""

MOST_COLUMNS: Final = 120
FITS: Final = 0.75

TITLES: Final = (
    "mr mrs ms messrs dr drs prof st ste gen col capt cpt lt sgt maj cmdr adm rev fr hon gov sen rep pres supt mt ft "
    "vs viz cf ca mme mlle mm sra srta dra dña ud uds hr frl bzw vgl sog bspw г ул им"
)
"""Abbreviations that stand before what they belong to: no sentence ends with them."""

COUNTED: Final = (
    "no nos nr num fig figs vol vols pp p pg par sec sect ch chap eq eqs art ed app approx al núm pág cap jan feb mar "
    "apr jun jul aug sep sept oct nov dec стр рис"
)
"""Abbreviations that stand before a number; before anything else they are words."""

STARTERS: Final = (
    "the a an this that these those it its he she they we you i his her their our my there here in on at for from with "
    "by as if when while after before since although though because however but and or so then thus yet what who why "
    "how where which one some many most all each every no not"
)
"""Words that often begin a sentence: after one letter and a full stop ("the U.S. The") they do."""

_LINE_FEED: Final = 0x0A
_FULL_STOP: Final = 0x2E
_HASH_SIGN: Final = 0x23
_OPENERS: Final = (0x22, 0x27, 0x28, 0x5B, 0x2018, 0x201C, 0xAB, 0x300C, 0x300E)
_APOSTROPHES: Final = (0x27, 0x2019)
_CONTINUES: Final = (0x2C, 0x3B, 0x3001, 0xFF0C, 0xFF1B, 0x060C)  # commas and semicolons


def _hashes(words: str) -> NDArray[np.uint64]:
    _, hashes = word_hashes(pa.array([words], pa.large_string()))
    unique = np.unique(hashes)
    unique.flags.writeable = False
    return unique


_TITLES: Final = _hashes(TITLES)
_COUNTED: Final = _hashes(COUNTED)
_STARTERS: Final = _hashes(STARTERS)


@numba.njit(nogil=True, cache=True, inline="always")
def _is_in(words: NDArray[np.uint64], word: np.uint64) -> bool:
    at = np.searchsorted(words, word)
    return bool(at < len(words) and words[at] == word)


@numba.njit(nogil=True, cache=True)
def _widest_line(data: NDArray[np.uint8], start: np.int64, end: np.int64) -> np.int64:
    """Columns of the widest line: two for a character from U+3000 on (East Asian), one for any other."""
    widest = columns = np.int64(0)
    for at in range(start, end):
        byte = data[at]
        if byte == _LINE_FEED:
            widest = max(widest, columns)
            columns = np.int64(0)
        elif byte & 0xC0 != 0x80:
            columns += 1 + (byte >= 0xE3)
    return max(widest, columns)


@numba.njit(nogil=True, cache=True)
def _first_word(
    data: NDArray[np.uint8], at: np.int64, end: np.int64, table: NDArray[np.uint32], traits: NDArray[np.uint8]
) -> tuple[np.uint64, bool]:
    """Hash of the word from `at` on, quotation marks and brackets passed over; whether it begins in a digit."""
    word = SEED
    digit = False
    is_open = False
    while at < end:
        point, at = decode(data, at, end)
        entry = np.int64(table[point])
        kind = (entry >> CLASS_SHIFT) & CLASS_MASK
        if kind == WORD:
            digit |= not is_open and not traits[point] & ALPHABETIC
            is_open = True
            word = mix(word, entry & FOLD_MASK)
        elif is_open or not (traits[point] & CLOSER or point in _OPENERS):
            break
    return finish(word), digit


@numba.njit(nogil=True, cache=True)
def _begins_item(data: NDArray[np.uint8], at: np.int64, end: np.int64, traits: NDArray[np.uint8]) -> bool:
    """Whether a list item begins here: a bullet, hash signs, or up to three digits with `.` or `)`, and a space."""
    point, after = decode(data, at, end)
    if point == _HASH_SIGN:
        while after < end and data[after] == _HASH_SIGN:
            after += 1
    elif not traits[point] & BULLET:
        after = at
        while after < end and 48 <= data[after] <= 57:
            after += 1
        if after in (at, end) or after > at + 3 or data[after] not in (_FULL_STOP, 0x29):
            return False
        after += 1
    return bool(after < end and (data[after] == 0x20 or data[after] == 9 or data[after] == 0xE3))


@numba.njit(nogil=True, cache=True)
def _word_columns(data: NDArray[np.uint8], at: np.int64, end: np.int64, traits: NDArray[np.uint8]) -> np.int64:
    """Columns of the characters from `at` to white space; one character of a script without spaces."""
    columns = np.int64(0)
    while at < end:
        point, at = decode(data, at, end)
        if traits[point] & SPACE:
            break
        columns += 1 + (point >= 0x3000)
        if point >= 0x3000:
            break
    return columns


@numba.njit(nogil=True, cache=True)
def _find_sentences(
    data: NDArray[np.uint8],
    start: np.int64,
    end: np.int64,
    table: NDArray[np.uint32],
    traits: NDArray[np.uint8],
    titles: NDArray[np.uint64],
    counted: NDArray[np.uint64],
    starters: NDArray[np.uint64],
    found: NDArray[np.int64],
    count: np.int64,
) -> np.int64:
    """Write where the sentences of data[start:end] begin, from found[count] on; return the new count."""
    widest = _widest_line(data, start, end)
    wrapped = widest <= MOST_COLUMNS
    started = has_word = False
    terminated = np.int64(0)  # by a terminator, closers after it: 1 after a full stop, 2 after another, 3 a wide one
    spaced = False  # white space after the last character
    feeds = np.int64(0)  # line feeds in it
    columns = line_columns = np.int64(0)  # of this line so far, with and without the white space at its end
    line_words = np.int64(0)  # of this line so far
    last = np.int64(0)  # the last character that is not white space
    word = SEED  # of the run of letters and digits before here, which
    letters = np.int64(0)  # has so many characters,
    only_digits = False  # all of them digits, and
    before_word = np.int64(0)  # comes after this character
    stopped = SEED  # the same of the run before the last full stop
    stopped_letters = np.int64(0)
    stopped_digits = False
    stopped_before = np.int64(0)
    stopped_words = np.int64(0)
    in_word = False
    at = start
    while at < end:
        point, after = decode(data, at, end)
        trait = np.int64(traits[point])
        entry = np.int64(table[point])
        kind = (entry >> CLASS_SHIFT) & CLASS_MASK
        if trait & SPACE:
            spaced = True
            in_word = False
            if point == _LINE_FEED:
                feeds += 1
            columns += 1
            at = after
            continue
        if kind in (MARK, IGNORABLE) and started:  # belongs to what is before it
            at = after
            continue
        ends = False
        if has_word:
            if terminated == 3:
                ends = spaced or not trait & (TERMINATOR | CLOSER)
            elif terminated and spaced and not trait & LOWER:
                ends = True
                if terminated == 1 and not stopped_digits:
                    following, digit = _first_word(data, at, end, table, traits)
                    if stopped_letters == 1 and stopped_before not in _APOSTROPHES:
                        ends = _is_in(starters, following)
                    elif _is_in(titles, stopped) or (digit and _is_in(counted, stopped)):
                        ends = False
                elif terminated == 1 and stopped_words == 1 and stopped_before == 0 and feeds == 0:
                    ends = False  # the number of a list item
            if feeds > 1:
                ends = True
            elif feeds == 1 and not ends:
                if _begins_item(data, at, end, traits):
                    ends = True
                elif last not in _CONTINUES:
                    fits = line_columns + 1 + _word_columns(data, at, end, traits)
                    ends = bool(not wrapped or fits <= FITS * widest)
        if ends or not started:
            found[count] = at
            count += 1
            started = True
            has_word = False
        if feeds:
            columns = np.int64(0)
            line_words = np.int64(0)
            before_word = np.int64(0)
            last = np.int64(0)
        if spaced:
            terminated = np.int64(0)
        is_wordlike = kind in (WORD, UNSPACED)
        if is_wordlike:
            has_word = True
            terminated = np.int64(0)
            if not in_word:
                in_word = True
                line_words += 1
                word = SEED
                letters = np.int64(0)
                only_digits = True
                before_word = np.int64(0) if spaced else last
            word = mix(word, entry & FOLD_MASK)
            letters += 1 + (kind == UNSPACED)  # one of those is no initial
            only_digits &= not trait & ALPHABETIC
        else:
            if trait & WIDE_TERMINATOR:
                terminated = np.int64(3)
            elif trait & TERMINATOR:
                if terminated != 3:
                    if point == _FULL_STOP and in_word:
                        terminated = np.int64(1)
                        stopped, stopped_letters, stopped_digits = finish(word), letters, only_digits
                        stopped_before, stopped_words = before_word, line_words
                    else:
                        terminated = np.int64(2)
            elif not trait & CLOSER:
                terminated = np.int64(0)
            in_word = False
        columns += 1 + (point >= 0x3000)
        line_columns = columns
        spaced = False
        feeds = np.int64(0)
        last = point
        at = after
    return count


@numba.njit(nogil=True, cache=True)
def _sentence_starts(
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    table: NDArray[np.uint32],
    traits: NDArray[np.uint8],
    titles: NDArray[np.uint64],
    counted: NDArray[np.uint64],
    starters: NDArray[np.uint64],
    offsets: NDArray[np.int64],
    found: NDArray[np.int64],
) -> np.int64:
    count = np.int64(0)
    offsets[0] = 0
    for text in range(len(starts)):
        first = count
        count = _find_sentences(data, starts[text], ends[text], table, traits, titles, counted, starters, found, count)
        for sentence in range(first, count):
            found[sentence] -= starts[text]
        offsets[text + 1] = count
    return count


def sentence_starts_of(view: Utf8View) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`sentence_starts` of the texts of a view."""
    # A sentence has a word and, but for the last one, a terminator or line feed: two bytes or more.
    most = int(((view.ends - view.starts) // 2 + 1).sum())
    offsets = np.empty(len(view.starts) + 1, np.int64)
    found = np.empty(most, np.int64)
    sets = (_TITLES, _COUNTED, _STARTERS)
    count = _sentence_starts(view.data, view.starts, view.ends, TABLE, TRAITS, *sets, offsets, found)
    found.resize(count, refcheck=False)  # gives the unused end back without a copy
    return offsets, found


def sentence_starts(texts: pa.Array | pa.ChunkedArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the sentences of each text begin: offsets (n + 1,) into the starts (sentences,), bytes from its beginning.

    The sentences of text i begin at starts[offsets[i]:offsets[i + 1]], the first one at the first character that is not
    white space. Nulls are empty texts. Raises TypeError where `texts` is neither string nor large_string.
    """
    parts = [sentence_starts_of(view) for view in utf8_views(texts)]
    bases = np.cumsum([0, *(len(starts) for _, starts in parts)])
    offsets = [part[1:] + base for (part, _), base in zip(parts, bases, strict=False)]
    none = np.zeros(0, np.int64)
    return np.concatenate([np.zeros(1, np.int64), *offsets]), np.concatenate([none, *(starts for _, starts in parts)])
