"""The statistics that the quality rules judge: one compiled pass over a batch of texts, one column for each.

Signals are measured once and kept; thresholds are applied to them (`pipeline.quality.rules`). Fractions and ratios of
nothing are 0. A line is not blank, and is without the white space around it; a whole line is what stands between two
line breaks (line feed, or carriage return and line feed), white space included, and is not blank either.
"""

from collections.abc import Sequence
from functools import cache
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.annotators import Signal
from pipeline.quality import counting as row
from pipeline.quality.c4 import PHRASES
from pipeline.quality.characters import (
    FUNCTION_COUNT,
    GARBLED_COUNT,
    PUNCTUATION_COUNT,
    RARE_COUNT,
    SIMPLIFIED_COUNT,
    TRADITIONAL_COUNT,
    make_marks,
)
from pipeline.quality.fineweb import SHORT_LINE_CHARACTERS
from pipeline.quality.lines import LineRules, make_verdicts
from pipeline.quality.stopwords import STOP_WORDS
from pipeline.text.arrow import utf8_views
from pipeline.text.lexicon import Lexicon, build_lexicon
from pipeline.text.records import make_records, scan_tables
from pipeline.text.repetition import make_workspace
from pipeline.text.tables import SCRIPTS

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
    Signal("mean_line_length", _F, "characters / (line feeds + 1): blank lines count, line feeds too"),
    Signal("hash_to_word_ratio", _F, "number signs # / words"),
    Signal("ellipsis_to_word_ratio", _F, "ellipses (U+2026, or three full stops) / words"),
    Signal("bullet_line_fraction", _F, "lines that start with a bullet point / lines"),
    Signal("ellipsis_line_fraction", _F, "lines that end in an ellipsis / lines"),
    Signal(
        "alphabetic_word_fraction", _F, "runs between white space with a letter / such runs with a letter or number"
    ),
    Signal(
        "alphabetic_token_fraction",
        _F,
        "words with a letter / words and punctuation marks, which are tokens to datatrove, but . _ ' inside names",
    ),
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
    Signal("fineweb_terminal_line_fraction", _F, "whole lines whose last character ends a sentence / lines"),
    Signal("fineweb_short_line_fraction", _F, f"whole lines of {SHORT_LINE_CHARACTERS} characters at the most / lines"),
    Signal(
        "fineweb_duplicate_line_character_fraction",
        _F,
        "characters of whole lines that occurred before / characters other than line feeds",
    ),
    Signal("fineweb_newline_word_ratio", _F, "line feeds / words and punctuation marks, which are tokens to datatrove"),
    Signal("refinedweb_kept_lines", _N, "lines that the RefinedWeb line rules keep, cut ones included"),
    Signal("refinedweb_removed_lines", _N, "lines that the RefinedWeb line rules remove, of all lines"),
    Signal("refinedweb_cut_lines", _N, "lines that they keep without a phrase"),
    Signal("refinedweb_removed_bytes", _N, "bytes that go with both"),
    Signal("refinedweb_removed_words", _N, "words of the removed lines and of the phrases cut out"),
    Signal("refinedweb_removed_word_fraction", _F, "the same / words"),
    Signal("han_fraction", _F, "Han letters / characters"),
    Signal("simplified_fraction", _F, "ideographs of GB 2312 that are not in Big5 / Han letters"),
    Signal("traditional_fraction", _F, "ideographs of Big5 that are not in GB 2312 / Han letters"),
    Signal("rare_han_fraction", _F, "ideographs of neither GB 2312 nor Big5 / Han letters"),
    Signal("function_character_fraction", _F, "function characters of Chinese (such as 的, 是, 之) / Han letters"),
    Signal("punctuation_fraction", _F, "punctuation marks (general category P) / characters"),
    Signal("garbled_fraction", _F, "garbled characters (pipeline.quality.characters) / characters"),
)


@cache
def quality_lexicon() -> Lexicon:
    """The phrases of C4 and the stop words of every language, compiled on first use."""
    return build_lexicon(PHRASES, STOP_WORDS)


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    return part / np.maximum(whole, 1)


def _columns(counts: NDArray[np.int64]) -> dict[str, pa.Array]:
    size, characters, words, lines = (
        counts[number] for number in (row.BYTES, row.ALL_CHARACTERS, row.ALL_WORDS, row.ALL_LINES)
    )
    han, line_feeds, marks = counts[row.HAN], counts[row.LINE_FEEDS], counts[row.MARKS : row.NGRAMS]
    by_c4 = lines - counts[row.C4_LINES]
    by_refinedweb = lines - counts[row.REFINEDWEB_LINES]
    stop_words = counts[row.STOP_WORDS]
    columns: dict[str, NDArray | pa.Array] = {
        "script": pa.DictionaryArray.from_arrays(counts[row.SCRIPT].astype(np.int32), list(SCRIPTS)).cast(pa.string()),
        "text_bytes": size,
        "characters": characters,
        "words": words,
        "lines": lines,
        "paragraphs": counts[row.PARAGRAPHS],
        "sentences": counts[row.SENTENCES],
        "mean_word_length": _ratio(counts[row.WORD_CHARACTERS], words),
        "mean_line_length": characters / (line_feeds + 1),
        "hash_to_word_ratio": _ratio(counts[row.ALL_HASH_SIGNS], words),
        "ellipsis_to_word_ratio": _ratio(counts[row.ALL_ELLIPSES], words),
        "bullet_line_fraction": _ratio(counts[row.BULLET_LINES], lines),
        "ellipsis_line_fraction": _ratio(counts[row.ELLIPSIS_LINES], lines),
        "alphabetic_word_fraction": _ratio(counts[row.ALPHABETIC], counts[row.ALL_CHUNKS]),
        "alphabetic_token_fraction": _ratio(
            counts[row.ALL_ALPHABETIC_WORDS], words + marks[PUNCTUATION_COUNT] - counts[row.ALL_INNER_MARKS]
        ),
        "stop_words": pa.array(stop_words, pa.int32(), mask=stop_words < 0),
        "duplicate_line_fraction": _ratio(counts[row.LINE_REPEATS], lines),
        "duplicate_line_character_fraction": _ratio(counts[row.LINE_REPEATS_SIZE], characters),
        "duplicate_paragraph_fraction": _ratio(counts[row.PARAGRAPH_REPEATS], counts[row.PARAGRAPHS]),
        "duplicate_paragraph_character_fraction": _ratio(counts[row.PARAGRAPH_REPEATS_SIZE], characters),
        **{f"top_{n}_gram_character_fraction": _ratio(counts[row.NGRAMS + n], characters) for n in (2, 3, 4)},
        **{f"duplicate_{n}_gram_character_fraction": _ratio(counts[row.NGRAMS + n], characters) for n in range(5, 11)},
        "curly_brackets": counts[row.ALL_CURLY_BRACKETS],
        "lorem_ipsum_lines": counts[row.LOREM_IPSUM],
        "c4_kept_lines": counts[row.C4_LINES],
        "c4_removed_lines": by_c4,
        "c4_removed_bytes": np.where(by_c4 > 0, size - counts[row.C4_BYTES], 0),
        "c4_kept_sentences": counts[row.C4_SENTENCES],
        "fineweb_terminal_line_fraction": _ratio(counts[row.TERMINAL_LINES], lines),
        "fineweb_short_line_fraction": _ratio(counts[row.SHORT_LINES], lines),
        "fineweb_duplicate_line_character_fraction": _ratio(
            counts[row.WHOLE_LINE_REPEATS_SIZE], characters - line_feeds
        ),
        "fineweb_newline_word_ratio": _ratio(line_feeds, words + marks[PUNCTUATION_COUNT]),
        "refinedweb_kept_lines": counts[row.REFINEDWEB_LINES],
        "refinedweb_removed_lines": by_refinedweb,
        "refinedweb_cut_lines": counts[row.REFINEDWEB_CUTS],
        "refinedweb_removed_bytes": np.where(
            by_refinedweb + counts[row.REFINEDWEB_CUTS] > 0, size - counts[row.REFINEDWEB_BYTES], 0
        ),
        "refinedweb_removed_words": counts[row.REFINEDWEB_WORDS],
        "refinedweb_removed_word_fraction": np.minimum(_ratio(counts[row.REFINEDWEB_WORDS], words), 1.0),
        "han_fraction": _ratio(han, characters),
        "simplified_fraction": np.minimum(_ratio(marks[SIMPLIFIED_COUNT], han), 1.0),
        "traditional_fraction": np.minimum(_ratio(marks[TRADITIONAL_COUNT], han), 1.0),
        "rare_han_fraction": np.minimum(_ratio(marks[RARE_COUNT], han), 1.0),
        "function_character_fraction": np.minimum(_ratio(marks[FUNCTION_COUNT], han), 1.0),
        "punctuation_fraction": _ratio(marks[PUNCTUATION_COUNT], characters),
        "garbled_fraction": np.minimum(_ratio(marks[GARBLED_COUNT], characters), 1.0),
    }
    return {signal.name: pa.array(columns[signal.name], signal.type) for signal in SIGNALS}


def measure(texts: pa.Array | pa.ChunkedArray, languages: Sequence[str | None], rules: LineRules) -> pa.Table:
    """The signals of each text: a table with the columns of SIGNALS, in the order of `texts`; nulls are empty texts.

    `languages` picks the list of stop words of each text; `rules` are those for lines (`pipeline.quality.lines`).
    Raises TypeError where `texts` is neither string nor large_string.
    """
    assert len(languages) == len(texts)
    lexicon = quality_lexicon()
    list_of = {name: number for number, name in enumerate(lexicon.list_names)}
    numbers = np.array([list_of.get(language or "", -1) for language in languages], np.int32)
    tables, marks = scan_tables(lexicon), make_marks()
    parts = [np.zeros((0, row.ROWS), np.int64)]
    done = 0
    for view in utf8_views(texts):
        documents = len(view.starts)
        longest = int((view.ends - view.starts).max(initial=0))
        records = make_records(longest, lexicon.words)
        room = len(records.words)
        counts = np.zeros((documents, row.ROWS), np.int64)
        row.count_batch(
            *view,
            numbers[done : done + documents],
            lexicon.lists,
            tables,
            marks,
            rules,
            records,
            make_verdicts(records, longest),
            make_workspace(room),
            np.empty(room, np.int64),
            np.empty(room, np.uint64),
            counts,
        )
        done += documents
        parts.append(counts)
    return pa.table(_columns(np.concatenate(parts).T))
