"""The C4 rules: which lines of a document go, and which documents.

Source: Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer",
JMLR 21(140), section 2.2. Of their rules the list of bad words, the removal of citation markers, the language and the
deduplication of three-sentence spans are not here: language and duplicates have stages of their own.
"""

from dataclasses import replace
from functools import cache
from typing import ClassVar, Final, NamedTuple

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from pipeline.quality.rules import Rule, RuleSet, threshold
from pipeline.stage import StageConfig
from pipeline.text.arrow import large_strings, utf8_views
from pipeline.text.lexicon import Lexicon, build_lexicon
from pipeline.text.records import (
    LINE_BEGIN,
    LINE_END,
    LINE_FLAGS,
    LINE_LONGEST,
    LINE_SENTENCES,
    LINE_WORDS,
    LINES,
    OPENS_PARAGRAPH,
    PHRASE_SHIFT,
    TERMINATED,
    Records,
    ScanTables,
    make_records,
    scan_document,
    scan_tables,
)

_SOURCE: Final = "Raffel et al. 2020, section 2.2"

# Phrases by category; the category's place is its bit in the flags of a line.
JAVASCRIPT: Final = "javascript"
POLICY: Final = "policy"
LOREM_IPSUM: Final = "lorem ipsum"
PHRASES: Final[dict[str, tuple[str, ...]]] = {
    JAVASCRIPT: ("javascript",),
    POLICY: ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies"),
    LOREM_IPSUM: ("lorem ipsum",),
}
JAVASCRIPT_BIT: Final = 1 << (PHRASE_SHIFT + 0)
POLICY_BIT: Final = 1 << (PHRASE_SHIFT + 1)
LOREM_IPSUM_BIT: Final = 1 << (PHRASE_SHIFT + 2)


class C4Lines(StageConfig):
    """Which lines C4 removes. A document without a removed line stays as it is, byte for byte.

    Of the rules of the paper all but the one of terminal punctuation are on by default, as in FineWeb (Penedo et al.
    2024, section 3.4), whose authors found that this one removes much and helps little.
    """

    minimum_words: int | None = Field(
        default=5, ge=0, description=f"Fewest words of a line; null switches the rule off. Default 5: {_SOURCE}"
    )
    maximum_word_length: int | None = Field(
        default=1000,
        ge=1,
        description="Longest run of characters without white space (in scripts without spaces: between two letters); "
        "null switches the rule off. Default 1000: the C4 code (c4_utils.py of TensorFlow Datasets)",
    )
    javascript: bool = Field(default=True, description=f"Remove lines with the word Javascript. Source: {_SOURCE}")
    policy: bool = Field(
        default=True,
        description="Remove lines that speak of privacy policies, terms of use or the use of cookies. "
        f"Source: {_SOURCE}; the phrases are those of the C4 code",
    )
    terminal_punctuation: bool = Field(
        default=False,
        description="Remove lines that do not end in a sentence terminator or a closing quotation mark, of any script. "
        f"Source: {_SOURCE}; off by default as in FineWeb (Penedo et al. 2024, section 3.4)",
    )


class C4(RuleSet):
    """C4's rules for documents, and whether the lines are removed that its rules for lines name.

    Which lines those are is measured by the annotate stage (`annotate.c4_lines`): their number, their bytes, and the
    sentences of the lines that stay.
    """

    prefix: ClassVar[str] = "c4"

    maximum_curly_brackets: float | None = threshold(0, "maximum", "curly_brackets", _SOURCE)
    maximum_lorem_ipsum_lines: float | None = threshold(0, "maximum", "lorem_ipsum_lines", _SOURCE)
    minimum_kept_lines: float | None = threshold(1, "minimum", "c4_kept_lines", f"{_SOURCE}: an empty page is no page")
    minimum_kept_sentences: float | None = threshold(3, "minimum", "c4_kept_sentences", _SOURCE)
    remove_lines: bool = Field(
        default=True, description=f"Remove the lines that `annotate.c4_lines` names from the text. Source: {_SOURCE}"
    )

    def rules(self, language: str = "") -> list[Rule]:
        """The rules in their order; where no lines are removed, they judge all lines."""
        rules = super().rules(language)
        if self.remove_lines:
            return rules
        whole = {"c4_kept_lines": "lines", "c4_kept_sentences": "sentences"}
        return [replace(rule, signal=whole.get(rule.signal, rule.signal)) for rule in rules]


class LineRules(NamedTuple):
    """C4Lines for the kernels; a rule that is off never bites."""

    minimum_words: np.int64
    maximum_word_length: np.int64
    removed_flags: np.int64  # a line with one of these flags goes
    required_flags: np.int64  # a line without all of these flags goes


def line_rules(config: C4Lines) -> LineRules:
    """The rules for lines as numbers."""
    return LineRules(
        np.int64(config.minimum_words or 0),
        np.int64(config.maximum_word_length or 1 << 62),
        np.int64(JAVASCRIPT_BIT * config.javascript | POLICY_BIT * config.policy),
        np.int64(TERMINATED * config.terminal_punctuation),
    )


@numba.njit(nogil=True, cache=True)
def _copy(data: NDArray[np.uint8], start: np.int64, length: np.int64, out: NDArray[np.uint8], at: np.int64) -> None:
    for byte in range(length):  # the assignment of one slice to another takes seconds to compile
        out[at + byte] = data[start + byte]


@numba.njit(nogil=True, cache=True)
def keep_lines(
    data: NDArray[np.uint8], records: Records, rules: LineRules, out: NDArray[np.uint8], at: np.int64
) -> tuple[np.int64, np.int64, np.int64]:
    """Write the lines that stay of the scanned document to out[at:], and return their number, sentences and bytes.

    They are joined by a line feed, or by two where a paragraph ended between them; white space at their ends goes. With
    `at` below 0 nothing is written.
    """
    kept = sentences = size = np.int64(0)
    gap = False
    for line in range(records.counters[LINES]):
        row = records.lines[line]
        flags = row[LINE_FLAGS]
        gap = gap or flags & OPENS_PARAGRAPH != 0
        if (
            row[LINE_WORDS] < rules.minimum_words
            or row[LINE_LONGEST] > rules.maximum_word_length
            or flags & rules.removed_flags != 0
            or flags & rules.required_flags != rules.required_flags
        ):
            continue
        feeds = np.int64(0) if kept == 0 else np.int64(1) + gap
        length = row[LINE_END] - row[LINE_BEGIN]
        if at >= 0:
            for feed in range(feeds):
                out[at + size + feed] = 0x0A
            _copy(data, row[LINE_BEGIN], length, out, at + size + feeds)
        size += feeds + length
        kept += 1
        sentences += row[LINE_SENTENCES]
        gap = False
    return kept, sentences, size


@numba.njit(nogil=True, cache=True)
def _remove_lines(
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    tables: ScanTables,
    rules: LineRules,
    records: Records,
    out: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    removed: NDArray[np.int64],
) -> None:
    at = np.int64(0)
    offsets[0] = 0
    for document in range(len(starts)):
        start, end = starts[document], ends[document]
        scan_document(data, start, end, tables, records)
        kept, _, size = keep_lines(data, records, rules, out, at)
        removed[document] = records.counters[LINES] - kept
        if removed[document] == 0:
            size = end - start
            _copy(data, start, size, out, at)
        at += size
        offsets[document + 1] = at


@cache
def _line_lexicon() -> Lexicon:
    return build_lexicon(PHRASES, {})


def remove_lines(texts: pa.Array | pa.ChunkedArray, rules: LineRules) -> tuple[pa.LargeStringArray, NDArray[np.int64]]:
    """The texts without the lines that the rules name, and the number of lines removed from each.

    A text that loses no line is unchanged; nulls become empty texts. Raises TypeError where `texts` is neither string
    nor large_string.
    """
    tables = scan_tables(_line_lexicon())
    parts = [pa.array([], pa.large_string())]
    removed = [np.zeros(0, np.int64)]
    for view in utf8_views(texts):
        documents = len(view.starts)
        records = make_records(int((view.ends - view.starts).max(initial=0)), 0)
        out = np.empty(int((view.ends - view.starts).sum()), np.uint8)
        offsets, lines = np.empty(documents + 1, np.int64), np.empty(documents, np.int64)
        _remove_lines(*view, tables, rules, records, out, offsets, lines)
        out.resize(int(offsets[-1]), refcheck=False)
        parts.append(large_strings(offsets, out))
        removed.append(lines)
    return pa.concat_arrays(parts), np.concatenate(removed)
