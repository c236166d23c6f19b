"""The scan of one document into records of its words and lines, from which every statistic is then taken.

- A line ends at a line feed. Only lines with a character other than white space count; white space around a line does
  not belong to it. A blank line ends a paragraph.
- A sentence ends at a terminator ("." and the like, with quotation marks and brackets closed after it) before white
  space, unless a lower-case letter follows, as after "e.g."; at a terminator of a script without spaces ("。"); and
  with its line. It has at least one word.
- Words are those of `pipeline.text.scan`; a run is of characters other than white space, and a chunk is a run with a
  letter or number in it.
- Lengths are in characters (code points). The marks and apostrophes of a word belong to its length, passed-over format
  characters do not.
"""

from typing import Final, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from pipeline.text.lexicon import Lexicon
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
    ALPHABETIC,
    BULLET,
    CLASS_MASK,
    CLASS_SHIFT,
    CLOSER,
    FOLD_MASK,
    LOWER,
    QUOTE,
    SCRIPT_SHIFT,
    SCRIPTS,
    SEPARATOR,
    SPACE,
    TABLE,
    TERMINATOR,
    TRAITS,
    UNSPACED,
    WIDE_TERMINATOR,
    WORD,
)

# Columns of `lines`.
LINE_BEGIN: Final = 0  # first byte, white space included
LINE_END: Final = 1  # after the last byte that is not white space
LINE_CHARACTERS: Final = 2  # from the first character that is not white space to the last
LINE_WORDS: Final = 3
LINE_LONGEST: Final = 4  # longest run of characters without white space and without letters of unspaced scripts
LINE_SENTENCES: Final = 5
LINE_FLAGS: Final = 6
LINE_RUNS: Final = 7  # in scripts without spaces each letter after the first of a run counts as one more
LINE_COLUMNS: Final = 8

# Bits of LINE_FLAGS; the phrase categories of the lexicon stand above them.
OPENS_PARAGRAPH: Final = 1
HAS_BULLET: Final = 2
HAS_ELLIPSIS: Final = 4  # at its end
TERMINATED: Final = 8  # ends in a sentence terminator or a closing quotation mark, and not in an ellipsis
PHRASE_SHIFT: Final = 8

# Entries of `counters`.
CHARACTERS: Final = 0
WORDS: Final = 1
LINES: Final = 2
CHUNKS: Final = 3
ALPHABETIC_CHUNKS: Final = 4
HASH_SIGNS: Final = 5
ELLIPSES: Final = 6  # U+2026, and three full stops in a row
CURLY_BRACKETS: Final = 7  # opening ones
ALPHABETIC_WORDS: Final = 8
INNER_MARKS: Final = 9  # . _ and ' between two ASCII letters or digits, as in names and contractions
COUNTERS: Final = 10

# Sentence states.
_OUTSIDE: Final = 0
_INSIDE: Final = 1
_TERMINATED: Final = 2
_SPACED: Final = 3  # terminated, and white space after it
_WIDE: Final = 4  # ended by a wide terminator: over with the next character that is not a closer

LATIN: Final = SCRIPTS.index("Latin")
_LINE_FEED: Final = 0x0A
_FULL_STOP: Final = 0x2E
_LOW_LINE: Final = 0x5F
_APOSTROPHE: Final = 0x27
_HASH_SIGN: Final = 0x23
_CURLY_BRACKET: Final = 0x7B
_ELLIPSIS: Final = 0x2026


class ScanTables(NamedTuple):
    """All read-only tables of the scan."""

    table: NDArray[np.uint32]
    traits: NDArray[np.uint8]
    transitions: NDArray[np.uint8]
    hashes: NDArray[np.uint64]
    codes: NDArray[np.int32]
    listed: NDArray[np.int32]
    automaton: NDArray[np.int32]
    categories: NDArray[np.int64]


class Records(NamedTuple):
    """Where the scan writes: room for the largest document, used again for each."""

    words: NDArray[np.uint64]  # hash of each word
    word_ends: NDArray[np.int64]  # (words + 1,) characters of all words up to and without this one
    lines: NDArray[np.int64]  # (lines, LINE_COLUMNS)
    line_hashes: NDArray[np.uint64]
    scripts: NDArray[np.int64]  # (scripts,) letters of each
    seen: NDArray[np.uint8]  # (listed words + 1,) whether the word occurs
    counters: NDArray[np.int64]


def scan_tables(lexicon: Lexicon) -> ScanTables:
    """The tables of the scan, with those of a lexicon."""
    return ScanTables(
        TABLE,
        TRAITS,
        TRANSITIONS,
        lexicon.hashes,
        lexicon.codes,
        lexicon.listed,
        lexicon.automaton,
        lexicon.categories,
    )


def make_records(longest: int, listed_words: int) -> Records:
    """Room for documents of up to `longest` bytes. Memory that no document needs is never touched."""
    most = (longest + 1) // 2 + 1  # a word or a line takes two bytes, or one at the end of the document
    return Records(
        np.empty(most, np.uint64),
        np.empty(most + 1, np.int64),
        np.empty((most, LINE_COLUMNS), np.int64),
        np.empty(most, np.uint64),
        np.empty(len(SCRIPTS), np.int64),
        np.empty(listed_words + 1, np.uint8),
        np.empty(COUNTERS, np.int64),
    )


@numba.njit(nogil=True, cache=True, inline="always")
def _find(hashes: NDArray[np.uint64], word: np.uint64) -> np.int64:
    """Slot of a word in the lexicon, or that of an empty slot."""
    mask = np.uint64(len(hashes) - 1)
    slot = word & mask
    while hashes[slot] != word and hashes[slot] != np.uint64(0):
        slot = (slot + np.uint64(1)) & mask
    return np.int64(slot)


@numba.njit(nogil=True, cache=True, inline="always")
def _is_ascii_word(byte: np.uint8) -> np.int64:
    letter = np.int64(97) <= (np.int64(byte) | 0x20) <= np.int64(122)
    return np.int64(letter or np.int64(48) <= np.int64(byte) <= np.int64(57))


@numba.njit(nogil=True, cache=True)
def scan_document(data: NDArray[np.uint8], start: np.int64, end: np.int64, tables: ScanTables, out: Records) -> None:
    """Fill `out` from the text data[start:end]."""
    out.scripts[:] = 0
    out.seen[:] = 0
    characters = words = lines = chunks = alphabetic = hash_signs = ellipses = curly = np.int64(0)
    full_stops = full_stops_last = np.int64(0)  # in a row, up to here; up to the last character of the line
    chunk_open = chunk_alphabetic = np.int64(0)
    run_open = run_unspaced = runs = np.int64(0)
    state = np.int64(NO_WORD)
    word = SEED
    word_length = word_characters = word_alphabetic = alphabetic_words = inner_marks = np.int64(0)
    out.word_ends[0] = 0
    phrase = np.int64(0)
    new_paragraph = True
    line_open = False
    line_begin = line_end = start
    line_first = line_last = np.int64(0)  # numbers of its first character, and of the one after its last
    line_hash = line_hash_last = SEED
    line_first_word = longest = run = sentences = flags = np.int64(0)
    sentence = np.int64(_OUTSIDE)
    last_point = np.int64(0)
    last_trait = np.int64(0)
    at = start
    while at <= end:
        if at == end:
            point, after = np.int64(_LINE_FEED), at + 1  # closes what is open; not counted
        else:
            point, after = decode(data, at, end)
        entry = np.int64(tables.table[point])
        trait = np.int64(tables.traits[point])
        kind = (entry >> CLASS_SHIFT) & CLASS_MASK
        action = np.int64(tables.transitions[state, kind])
        state = action & STATE_MASK
        if action & ENDS:
            value = finish(word)
            word_characters += word_length
            out.words[words] = value
            words += 1
            alphabetic_words += word_alphabetic
            word_alphabetic = np.int64(0)
            out.word_ends[words] = word_characters
            slot = _find(tables.hashes, value)
            out.seen[tables.listed[slot]] = 1
            phrase = np.int64(tables.automaton[phrase, tables.codes[slot]])
            flags |= tables.categories[phrase] << PHRASE_SHIFT
            word = SEED
            word_length = np.int64(0)
        if action & JOINS:
            word = mix(word, 0x27)
            word_length += 1
        if action & EXTENDS:
            word = mix(word, entry & FOLD_MASK)
            word_length += 1
            out.scripts[entry >> SCRIPT_SHIFT] += 1
        if trait & SPACE:
            chunk_open = chunk_alphabetic = np.int64(0)
            run_open = run_unspaced = run = np.int64(0)
            full_stops = np.int64(0)
            if sentence == _TERMINATED:
                sentence = np.int64(_SPACED)
            if point != _LINE_FEED:
                line_hash = mix(line_hash, point)
            else:
                if line_open:
                    if full_stops_last >= 3 or last_point == _ELLIPSIS:
                        flags |= HAS_ELLIPSIS
                    elif last_trait & (TERMINATOR | QUOTE):
                        flags |= TERMINATED
                    out.lines[lines, LINE_BEGIN] = line_begin
                    out.lines[lines, LINE_END] = line_end
                    out.lines[lines, LINE_CHARACTERS] = line_last - line_first
                    out.lines[lines, LINE_WORDS] = words - line_first_word
                    out.lines[lines, LINE_LONGEST] = longest
                    out.lines[lines, LINE_SENTENCES] = sentences + (sentence != _OUTSIDE)
                    out.lines[lines, LINE_FLAGS] = flags
                    out.lines[lines, LINE_RUNS] = runs
                    out.line_hashes[lines] = finish(line_hash_last)
                    lines += 1
                new_paragraph = not line_open
                line_open = False
                line_begin = after
                line_hash = SEED
                line_first_word = words
                longest = sentences = flags = phrase = runs = np.int64(0)
                sentence = np.int64(_OUTSIDE)
        else:
            if not line_open:
                line_open = True
                line_first = characters
                line_hash = SEED
                flags = np.int64(new_paragraph) * OPENS_PARAGRAPH | np.int64(trait & BULLET != 0) * HAS_BULLET
            line_hash = mix(line_hash, point)
            line_hash_last = line_hash
            line_last = characters + 1
            line_end = after
            last_point = point
            last_trait = trait
            runs += 1 - run_open
            run_open = np.int64(1)
            unspaced = np.int64(kind == UNSPACED)
            runs += unspaced & run_unspaced
            run_unspaced |= unspaced
            wordlike = np.int64(kind == WORD) | unspaced
            chunks += wordlike & ~chunk_open
            chunk_open |= wordlike
            letter = np.int64(trait & ALPHABETIC != 0)
            word_alphabetic |= letter & np.int64(action & EXTENDS != 0)
            if point in (_FULL_STOP, _LOW_LINE, _APOSTROPHE) and start < at and after < end:
                inner_marks += _is_ascii_word(data[at - 1]) & _is_ascii_word(data[after])
            alphabetic += letter & ~chunk_alphabetic
            chunk_alphabetic |= letter
            run = np.int64(0) if unspaced else run + 1
            longest = max(longest, run)
            if sentence != _INSIDE or kind == SEPARATOR:
                if (sentence == _SPACED and not trait & LOWER) or (
                    sentence == _WIDE and not trait & (TERMINATOR | CLOSER)
                ):
                    sentences += 1
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
            if kind == SEPARATOR:
                hash_signs += point == _HASH_SIGN
                curly += point == _CURLY_BRACKET
                full_stops = full_stops + 1 if point == _FULL_STOP else np.int64(0)
                ellipses += point == _ELLIPSIS or (full_stops > 0 and full_stops % 3 == 0)
            else:
                full_stops = np.int64(0)
            full_stops_last = full_stops
        characters += 1
        at = after
        if state == IN_WORD and trait & ALPHABETIC:
            # The rest of a run of ASCII letters, most of all text, changes nothing but this.
            while at < end and np.int64(97) <= (data[at] | 0x20) <= np.int64(122):
                word = mix(word, data[at] | 0x20)
                line_hash = mix(line_hash, data[at])
                at += 1
            more = at - after
            if more:
                word_length += more
                out.scripts[LATIN] += more
                characters += more
                run += more
                longest = max(longest, run)
                line_hash_last = line_hash
                line_last = characters
                line_end = at
                last_point = last_trait = np.int64(0)
    out.counters[CHARACTERS] = characters - 1
    out.counters[WORDS] = words
    out.counters[LINES] = lines
    out.counters[CHUNKS] = chunks
    out.counters[ALPHABETIC_CHUNKS] = alphabetic
    out.counters[HASH_SIGNS] = hash_signs
    out.counters[ELLIPSES] = ellipses
    out.counters[CURLY_BRACKETS] = curly
    out.counters[ALPHABETIC_WORDS] = alphabetic_words
    out.counters[INNER_MARKS] = inner_marks
