"""The statistics that the quality rules judge: one compiled pass over a batch of texts, one column for each.

Signals are measured once and kept; thresholds are applied to them (`pipeline.quality.rules`). Fractions and ratios of
nothing are 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.quality.c4 import LOREM_IPSUM_BIT, PHRASES, LineRules, keep_lines
from pipeline.quality.stopwords import STOP_WORDS
from pipeline.text.arrow import utf8_views
from pipeline.text.lexicon import Lexicon, build_lexicon
from pipeline.text.records import (
    ALPHABETIC_CHUNKS,
    CHARACTERS,
    CHUNKS,
    CURLY_BRACKETS,
    ELLIPSES,
    HAS_BULLET,
    HAS_ELLIPSIS,
    HASH_SIGNS,
    LINE_CHARACTERS,
    LINE_FLAGS,
    LINE_SENTENCES,
    LINES,
    OPENS_PARAGRAPH,
    WORDS,
    Records,
    ScanTables,
    make_records,
    scan_document,
    scan_tables,
)
from pipeline.text.repetition import LARGEST, Workspace, count_ngrams, count_repeats, make_workspace
from pipeline.text.scan import finish, mix
from pipeline.text.tables import SCRIPTS

# Rows of the counts that the kernel fills, one column a document.
_BYTES: Final = 0
_CHARACTERS: Final = 1
_WORDS: Final = 2
_WORD_CHARACTERS: Final = 3
_LINES: Final = 4
_PARAGRAPHS: Final = 5
_SENTENCES: Final = 6
_CHUNKS: Final = 7
_ALPHABETIC: Final = 8
_HASH_SIGNS: Final = 9
_ELLIPSES: Final = 10
_BULLET_LINES: Final = 11
_ELLIPSIS_LINES: Final = 12
_STOP_WORDS: Final = 13
_LINE_REPEATS: Final = 14
_LINE_REPEATS_SIZE: Final = 15
_PARAGRAPH_REPEATS: Final = 16
_PARAGRAPH_REPEATS_SIZE: Final = 17
_CURLY_BRACKETS: Final = 18
_LOREM_IPSUM: Final = 19
_KEPT_LINES: Final = 20
_KEPT_SENTENCES: Final = 21
_KEPT_BYTES: Final = 22
_SCRIPT: Final = 23
_NGRAMS: Final = 24  # + n
_ROWS: Final = _NGRAMS + LARGEST + 1


@dataclass(frozen=True)
class Signal:
    """A column of the signals."""

    name: str
    type: pa.DataType
    description: str


_N, _F = pa.int64(), pa.float64()
SIGNALS: Final[tuple[Signal, ...]] = (
    Signal("script", pa.string(), "script of most letters; Common where there are none"),
    Signal("text_bytes", _N, "UTF-8 bytes"),
    Signal("characters", _N, "code points"),
    Signal("words", _N, "words; each letter of a script without spaces is one"),
    Signal("lines", _N, "lines that are not blank"),
    Signal("paragraphs", _N, "runs of lines between blank lines"),
    Signal("sentences", _N, "sentences; one ends with its line at the latest"),
    Signal("mean_word_length", _F, "characters"),
    Signal("hash_to_word_ratio", _F, "number signs # / words"),
    Signal("ellipsis_to_word_ratio", _F, "ellipses (U+2026, or three full stops) / words"),
    Signal("bullet_line_fraction", _F, "lines that start with a bullet point / lines"),
    Signal("ellipsis_line_fraction", _F, "lines that end in an ellipsis / lines"),
    Signal("alphabetic_word_fraction", _F, "runs between white space with a letter / runs between white space"),
    Signal("stop_words", pa.int32(), "different stop words of the document's language; null: it has no list"),
    Signal("duplicate_line_fraction", _F, "lines that occurred before / lines"),
    Signal("duplicate_line_character_fraction", _F, "characters of lines that occurred before / characters"),
    Signal("duplicate_paragraph_fraction", _F, "paragraphs that occurred before / paragraphs"),
    Signal("duplicate_paragraph_character_fraction", _F, "characters of paragraphs that occurred before / characters"),
    *(
        Signal(f"top_{n}_gram_character_fraction", _F, f"word characters of the most frequent {n}-gram / characters")
        for n in (2, 3, 4)
    ),
    *(
        Signal(f"duplicate_{n}_gram_character_fraction", _F, f"word characters of repeated {n}-grams / characters")
        for n in (5, 6, 7, 8, 9, 10)
    ),
    Signal("curly_brackets", _N, "opening curly brackets"),
    Signal("lorem_ipsum_lines", _N, "lines with the words lorem ipsum"),
    Signal("c4_kept_lines", _N, "lines that the C4 line rules keep"),
    Signal("c4_removed_lines", _N, "lines that the C4 line rules remove"),
    Signal("c4_removed_bytes", _N, "bytes that go with them"),
    Signal("c4_kept_sentences", _N, "sentences of the lines that the C4 line rules keep"),
)


@cache
def quality_lexicon() -> Lexicon:
    """The phrases of C4 and the stop words of every language, compiled on first use."""
    return build_lexicon(PHRASES, STOP_WORDS)


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
def _count(
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    languages: NDArray[np.int32],
    lists: NDArray[np.int32],
    tables: ScanTables,
    rules: LineRules,
    records: Records,
    space: Workspace,
    sizes: NDArray[np.int64],
    hashes: NDArray[np.uint64],
    counts: NDArray[np.int64],
) -> None:
    ngrams = np.zeros(LARGEST + 1, np.int64)
    nowhere = np.empty(0, np.uint8)
    for document in range(len(starts)):
        start, end = starts[document], ends[document]
        scan_document(data, start, end, tables, records)
        counters = records.counters
        words, lines = counters[WORDS], counters[LINES]
        sentences = bullets = ellipses = lorem = np.int64(0)
        for line in range(lines):
            flags = records.lines[line, LINE_FLAGS]
            sizes[line] = records.lines[line, LINE_CHARACTERS]
            sentences += records.lines[line, LINE_SENTENCES]
            bullets += flags & HAS_BULLET != 0
            ellipses += flags & HAS_ELLIPSIS != 0
            lorem += flags & LOREM_IPSUM_BIT != 0
        line_repeats = count_repeats(records.line_hashes, sizes, lines, space)
        paragraphs = _paragraphs(records, hashes, sizes)
        paragraph_repeats = count_repeats(hashes, sizes, paragraphs, space)
        count_ngrams(records.words, records.word_ends, words, space, ngrams)
        kept = keep_lines(data, records, rules, nowhere, np.int64(-1))
        stop_words = np.int64(-1)
        if languages[document] >= 0:
            stop_words = np.int64(0)
            for number in lists[languages[document]]:
                stop_words += number > 0 and records.seen[number]
        script = np.int64(0)
        for candidate in range(1, len(records.scripts)):
            if records.scripts[candidate] > (records.scripts[script] if script > 0 else 0):
                script = np.int64(candidate)
        counts[_BYTES, document] = end - start
        counts[_CHARACTERS, document] = counters[CHARACTERS]
        counts[_WORDS, document] = words
        counts[_WORD_CHARACTERS, document] = records.word_ends[words]
        counts[_LINES, document] = lines
        counts[_PARAGRAPHS, document] = paragraphs
        counts[_SENTENCES, document] = sentences
        counts[_CHUNKS, document] = counters[CHUNKS]
        counts[_ALPHABETIC, document] = counters[ALPHABETIC_CHUNKS]
        counts[_HASH_SIGNS, document] = counters[HASH_SIGNS]
        counts[_ELLIPSES, document] = counters[ELLIPSES]
        counts[_BULLET_LINES, document] = bullets
        counts[_ELLIPSIS_LINES, document] = ellipses
        counts[_STOP_WORDS, document] = stop_words
        counts[_LINE_REPEATS, document] = line_repeats[0]
        counts[_LINE_REPEATS_SIZE, document] = line_repeats[1]
        counts[_PARAGRAPH_REPEATS, document] = paragraph_repeats[0]
        counts[_PARAGRAPH_REPEATS_SIZE, document] = paragraph_repeats[1]
        counts[_CURLY_BRACKETS, document] = counters[CURLY_BRACKETS]
        counts[_LOREM_IPSUM, document] = lorem
        counts[_KEPT_LINES, document] = kept[0]
        counts[_KEPT_SENTENCES, document] = kept[1]
        counts[_KEPT_BYTES, document] = kept[2]
        counts[_SCRIPT, document] = script
        for n in range(LARGEST + 1):
            counts[_NGRAMS + n, document] = ngrams[n]


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    return part / np.maximum(whole, 1)


def _columns(counts: NDArray[np.int64]) -> dict[str, pa.Array]:
    characters, words, lines = counts[_CHARACTERS], counts[_WORDS], counts[_LINES]
    removed_lines = lines - counts[_KEPT_LINES]
    stop_words = counts[_STOP_WORDS]
    columns: dict[str, NDArray | pa.Array] = {
        "script": pa.DictionaryArray.from_arrays(counts[_SCRIPT].astype(np.int32), list(SCRIPTS)).cast(pa.string()),
        "text_bytes": counts[_BYTES],
        "characters": characters,
        "words": words,
        "lines": lines,
        "paragraphs": counts[_PARAGRAPHS],
        "sentences": counts[_SENTENCES],
        "mean_word_length": _ratio(counts[_WORD_CHARACTERS], words),
        "hash_to_word_ratio": _ratio(counts[_HASH_SIGNS], words),
        "ellipsis_to_word_ratio": _ratio(counts[_ELLIPSES], words),
        "bullet_line_fraction": _ratio(counts[_BULLET_LINES], lines),
        "ellipsis_line_fraction": _ratio(counts[_ELLIPSIS_LINES], lines),
        "alphabetic_word_fraction": _ratio(counts[_ALPHABETIC], counts[_CHUNKS]),
        "stop_words": pa.array(stop_words, pa.int32(), mask=stop_words < 0),
        "duplicate_line_fraction": _ratio(counts[_LINE_REPEATS], lines),
        "duplicate_line_character_fraction": _ratio(counts[_LINE_REPEATS_SIZE], characters),
        "duplicate_paragraph_fraction": _ratio(counts[_PARAGRAPH_REPEATS], counts[_PARAGRAPHS]),
        "duplicate_paragraph_character_fraction": _ratio(counts[_PARAGRAPH_REPEATS_SIZE], characters),
        **{f"top_{n}_gram_character_fraction": _ratio(counts[_NGRAMS + n], characters) for n in (2, 3, 4)},
        **{f"duplicate_{n}_gram_character_fraction": _ratio(counts[_NGRAMS + n], characters) for n in range(5, 11)},
        "curly_brackets": counts[_CURLY_BRACKETS],
        "lorem_ipsum_lines": counts[_LOREM_IPSUM],
        "c4_kept_lines": counts[_KEPT_LINES],
        "c4_removed_lines": removed_lines,
        "c4_removed_bytes": np.where(removed_lines > 0, counts[_BYTES] - counts[_KEPT_BYTES], 0),
        "c4_kept_sentences": counts[_KEPT_SENTENCES],
    }
    return {signal.name: pa.array(columns[signal.name], signal.type) for signal in SIGNALS}


def measure(texts: pa.Array | pa.ChunkedArray, languages: Sequence[str | None], rules: LineRules) -> pa.Table:
    """The signals of each text: a table with the columns of SIGNALS, in the order of `texts`; nulls are empty texts.

    `languages` picks the list of stop words of each text; `rules` are the C4 line rules (`pipeline.quality.c4`).
    Raises TypeError where `texts` is neither string nor large_string.
    """
    assert len(languages) == len(texts)
    lexicon = quality_lexicon()
    list_of = {name: number for number, name in enumerate(lexicon.list_names)}
    numbers = np.array([list_of.get(language or "", -1) for language in languages], np.int32)
    tables = scan_tables(lexicon)
    parts = []
    done = 0
    for view in utf8_views(texts):
        documents = len(view.starts)
        longest = int((view.ends - view.starts).max(initial=0))
        records = make_records(longest, lexicon.words)
        room = len(records.words)
        counts = np.zeros((_ROWS, documents), np.int64)
        _count(
            *view,
            numbers[done : done + documents],
            lexicon.lists,
            tables,
            rules,
            records,
            make_workspace(room),
            np.empty(room, np.int64),
            np.empty(room, np.uint64),
            counts,
        )
        done += documents
        parts.append(counts)
    return pa.table(_columns(np.concatenate(parts, axis=1) if parts else np.zeros((_ROWS, 0), np.int64)))
