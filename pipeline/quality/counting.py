"""The kernel behind the signals: one scan of each document, from which all of its counts are taken."""

from typing import Final

import numba
import numpy as np
from numpy.typing import NDArray

from pipeline.quality.c4 import LOREM_IPSUM_BIT
from pipeline.quality.characters import MARK_COUNTS, TERMINAL, Marks, count_marks
from pipeline.quality.fineweb import SHORT_LINE_CHARACTERS
from pipeline.quality.lines import BY_C4, BY_REFINEDWEB, LineRules, Verdicts, judge, keep_lines
from pipeline.quality.refinedweb import last_start
from pipeline.text.records import (
    ALPHABETIC_CHUNKS,
    ALPHABETIC_WORDS,
    CHARACTERS,
    CHUNKS,
    CURLY_BRACKETS,
    ELLIPSES,
    HAS_BULLET,
    HAS_ELLIPSIS,
    HASH_SIGNS,
    INNER_MARKS,
    LINE_BEGIN,
    LINE_CHARACTERS,
    LINE_END,
    LINE_FLAGS,
    LINE_SENTENCES,
    LINES,
    OPENS_PARAGRAPH,
    WORDS,
    Records,
    ScanTables,
    scan_document,
)
from pipeline.text.repetition import LARGEST, Workspace, count_ngrams, count_repeats
from pipeline.text.scan import decode, finish, mix
from pipeline.text.tables import SCRIPTS, UNSPACED_SCRIPTS

# Rows of the counts that the kernel fills, one column a document.
BYTES: Final = 0
ALL_CHARACTERS: Final = 1
ALL_WORDS: Final = 2
WORD_CHARACTERS: Final = 3
ALL_LINES: Final = 4
PARAGRAPHS: Final = 5
SENTENCES: Final = 6
ALL_CHUNKS: Final = 7
ALPHABETIC: Final = 8
ALL_HASH_SIGNS: Final = 9
ALL_ELLIPSES: Final = 10
BULLET_LINES: Final = 11
ELLIPSIS_LINES: Final = 12
STOP_WORDS: Final = 13
LINE_REPEATS: Final = 14
LINE_REPEATS_SIZE: Final = 15
PARAGRAPH_REPEATS: Final = 16
PARAGRAPH_REPEATS_SIZE: Final = 17
ALL_CURLY_BRACKETS: Final = 18
LOREM_IPSUM: Final = 19
C4_LINES: Final = 20  # that stay
C4_SENTENCES: Final = 21
C4_BYTES: Final = 22
SCRIPT: Final = 23
HAN: Final = 24
LINE_FEEDS: Final = 25
TERMINAL_LINES: Final = 26
SHORT_LINES: Final = 27
WHOLE_LINE_REPEATS_SIZE: Final = 28
REFINEDWEB_LINES: Final = 29  # that stay
REFINEDWEB_CUTS: Final = 30
REFINEDWEB_BYTES: Final = 31
REFINEDWEB_WORDS: Final = 32  # that go
ALL_ALPHABETIC_WORDS: Final = 33
ALL_INNER_MARKS: Final = 34
MARKS: Final = 35  # + the entry of the counts of marks
NGRAMS: Final = MARKS + MARK_COUNTS  # + n
ROWS: Final = NGRAMS + LARGEST + 1

_HAN: Final = SCRIPTS.index("Han")
_UNSPACED: Final = tuple(number for number, name in enumerate(SCRIPTS) if name in UNSPACED_SCRIPTS)
_LINE_FEED: Final = 0x0A
_CARRIAGE_RETURN: Final = 0x0D


@numba.njit(nogil=True, cache=True)
def _paragraphs(records: Records, hashes: NDArray[np.uint64], sizes: NDArray[np.int64]) -> np.int64:
    """Hash and size of each paragraph: its lines without the white space around them, joined by line feeds."""
    count = np.int64(0)
    for line in range(records.counters[LINES]):
        row = records.lines[line]
        if row[LINE_FLAGS] & OPENS_PARAGRAPH:
            hashes[count] = records.line_hashes[line]
            sizes[count] = row[LINE_CHARACTERS]
            count += 1
        else:
            hashes[count - 1] = finish(mix(hashes[count - 1], 0x0A) ^ records.line_hashes[line])
            sizes[count - 1] += 1 + row[LINE_CHARACTERS]
    return count


@numba.njit(nogil=True, cache=True)
def _margin(
    data: NDArray[np.uint8], at: np.int64, end: np.int64, salt: int, value: np.uint64
) -> tuple[np.int64, np.uint64]:
    """Characters of the white space data[at:end] beside a line, and the hash of the line with them."""
    characters = np.int64(0)
    value = mix(value, salt)
    while at < end:
        point, at = decode(data, at, end)
        value = mix(value, point)
        characters += 1
    return characters, finish(value)


@numba.njit(nogil=True, cache=True)
def _line_break(data: NDArray[np.uint8], at: np.int64, end: np.int64) -> np.int64:
    """Where the line ends of which nothing but white space is left from data[at]: before its line feed."""
    begin = at
    while at < end and data[at] != _LINE_FEED:
        at += 1
    return at - 1 if at < end and at > begin and data[at - 1] == _CARRIAGE_RETURN else at


@numba.njit(nogil=True, cache=True)
def _count_lines(
    data: NDArray[np.uint8],
    start: np.int64,
    end: np.int64,
    tables: ScanTables,
    marks: Marks,
    rules: LineRules,
    records: Records,
    verdicts: Verdicts,
    space: Workspace,
    sizes: NDArray[np.int64],
    hashes: NDArray[np.uint64],
    found: NDArray[np.int64],
) -> None:
    """The counts that are taken line by line, into `found` (ROWS)."""
    counts = np.zeros(MARK_COUNTS, np.int64)
    nowhere = np.empty(0, np.uint8)
    lines = records.counters[LINES]
    margins = False
    for number in range(lines):
        row = records.lines[number]
        begin, until = row[LINE_BEGIN], row[LINE_END]
        stop = _line_break(data, until, end)
        count_marks(data, begin, stop, marks, counts)
        for mark in range(MARK_COUNTS):
            found[MARKS + mark] += counts[mark]
        first, lost = judge(data, number, records, tables.traits, marks.points, rules, counts, verdicts)
        found[REFINEDWEB_WORDS] += lost
        characters = row[LINE_CHARACTERS]
        value = records.line_hashes[number]
        if first > begin:
            more, value = _margin(data, begin, first, 1, value)
            characters += more
        if until < stop:
            more, value = _margin(data, until, stop, 2, value)
            characters += more
        else:
            point, _ = decode(data, last_start(data, begin, until), until)
            found[TERMINAL_LINES] += marks.points[point] & TERMINAL != 0
        margins = margins or characters > row[LINE_CHARACTERS]
        found[SHORT_LINES] += characters <= SHORT_LINE_CHARACTERS
        hashes[number] = value
        sizes[number] = characters
        flags = row[LINE_FLAGS]
        found[SENTENCES] += row[LINE_SENTENCES]
        found[BULLET_LINES] += flags & HAS_BULLET != 0
        found[ELLIPSIS_LINES] += flags & HAS_ELLIPSIS != 0
        found[LOREM_IPSUM] += flags & LOREM_IPSUM_BIT != 0
    repeats = count_repeats(hashes, sizes, lines, space)
    found[WHOLE_LINE_REPEATS_SIZE] = repeats[1]
    if margins:
        for number in range(lines):
            sizes[number] = records.lines[number, LINE_CHARACTERS]
        repeats = count_repeats(records.line_hashes, sizes, lines, space)
    found[LINE_REPEATS], found[LINE_REPEATS_SIZE] = repeats
    outcome = keep_lines(data, records, tables.traits, rules, verdicts, BY_C4, nowhere, np.int64(-1))
    found[C4_LINES], _, found[C4_SENTENCES], found[C4_BYTES] = outcome
    outcome = keep_lines(data, records, tables.traits, rules, verdicts, BY_REFINEDWEB, nowhere, np.int64(-1))
    found[REFINEDWEB_LINES], found[REFINEDWEB_CUTS], _, found[REFINEDWEB_BYTES] = outcome
    for at in range(start, end):
        found[LINE_FEEDS] += data[at] == _LINE_FEED


@numba.njit(nogil=True, cache=True)
def _letters_of(scripts: NDArray[np.int64], wanted: tuple[int, ...]) -> np.int64:
    total = np.int64(0)
    for script in wanted:
        total += scripts[script]
    return total


@numba.njit(nogil=True, cache=True)
def _main_script(scripts: NDArray[np.int64]) -> np.int64:
    """The script of most letters, the first of several; Common where there are none."""
    most = np.int64(0)
    for script in range(1, len(scripts)):
        if scripts[script] > (scripts[most] if most > 0 else 0):
            most = np.int64(script)
    return most


@numba.njit(nogil=True, cache=True)
def count_batch(
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    languages: NDArray[np.int32],
    lists: NDArray[np.int32],
    tables: ScanTables,
    marks: Marks,
    rules: LineRules,
    records: Records,
    verdicts: Verdicts,
    space: Workspace,
    sizes: NDArray[np.int64],
    hashes: NDArray[np.uint64],
    counts: NDArray[np.int64],
) -> None:
    """Fill `counts` (documents, ROWS), zeros at first. `languages` are rows of `lists`, or -1 for none."""
    ngrams = np.zeros(LARGEST + 1, np.int64)
    for document in range(len(starts)):
        start, end = starts[document], ends[document]
        found = counts[document]
        scan_document(data, start, end, tables, records)
        counters = records.counters
        words = counters[WORDS]
        _count_lines(data, start, end, tables, marks, rules, records, verdicts, space, sizes, hashes, found)
        paragraphs = _paragraphs(records, hashes, sizes)
        repeats = count_repeats(hashes, sizes, paragraphs, space)
        gap = np.int64(2 * _letters_of(records.scripts, _UNSPACED) < words)
        count_ngrams(records.words, records.word_ends, words, gap, space, ngrams)
        stop_words = np.int64(-1)
        if languages[document] >= 0:
            stop_words = np.int64(0)
            for number in lists[languages[document]]:
                stop_words += number > 0 and records.seen[number]
        found[BYTES] = end - start
        found[ALL_CHARACTERS] = counters[CHARACTERS]
        found[ALL_WORDS] = words
        found[WORD_CHARACTERS] = records.word_ends[words]
        found[ALL_LINES] = counters[LINES]
        found[PARAGRAPHS] = paragraphs
        found[ALL_CHUNKS] = counters[CHUNKS]
        found[ALPHABETIC] = counters[ALPHABETIC_CHUNKS]
        found[ALL_ALPHABETIC_WORDS] = counters[ALPHABETIC_WORDS]
        found[ALL_INNER_MARKS] = counters[INNER_MARKS]
        found[ALL_HASH_SIGNS] = counters[HASH_SIGNS]
        found[ALL_ELLIPSES] = counters[ELLIPSES]
        found[STOP_WORDS] = stop_words
        found[PARAGRAPH_REPEATS], found[PARAGRAPH_REPEATS_SIZE] = repeats
        found[ALL_CURLY_BRACKETS] = counters[CURLY_BRACKETS]
        found[SCRIPT] = _main_script(records.scripts)
        found[HAN] = records.scripts[_HAN]
        for n in range(LARGEST + 1):
            found[NGRAMS + n] = ngrams[n]
