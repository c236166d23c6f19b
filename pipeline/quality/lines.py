"""The removal of lines: every line is judged by the rules of several published sets at once.

Each set judges the lines of the text as it was, so its signals do not depend on what another set removes. Where a line
breaks the rules of several sets, the first of SETS takes it: what the ledger counts for C4 is what C4 alone would
remove, and what it counts for RefinedWeb is what that removes of the lines which C4 leaves. As no rule looks at more
than one line, the text is the same as if the sets were applied one after the other.
"""

from collections.abc import Collection
from functools import cache
from typing import Final, NamedTuple

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from pipeline.quality.c4 import PHRASES, C4Lines, C4Numbers, c4_numbers, c4_removes
from pipeline.quality.characters import MARK_COUNTS, Marks, count_marks, make_marks
from pipeline.quality.refinedweb import (
    CUT,
    REMOVED,
    Int,
    RefinedWebLines,
    RefinedWebNumbers,
    cut_phrases,
    judge_line,
    refinedweb_numbers,
    skip_space,
)
from pipeline.quality.rules import did_you_mean
from pipeline.stage import StageConfig
from pipeline.text.arrow import large_strings, utf8_views
from pipeline.text.lexicon import Lexicon, build_lexicon
from pipeline.text.records import (
    LINE_BEGIN,
    LINE_CHARACTERS,
    LINE_END,
    LINE_FLAGS,
    LINE_SENTENCES,
    LINE_WORDS,
    LINES,
    OPENS_PARAGRAPH,
    Records,
    ScanTables,
    make_records,
    scan_document,
    scan_tables,
)

SETS: Final = ("c4", "refinedweb")
"""The sets that have rules for lines, in the order in which they take lines."""

# Bits of a verdict.
BY_C4: Final = 1
BY_REFINEDWEB: Final = 2
CUT_BY_REFINEDWEB: Final = 4


class Lines(StageConfig):
    """The rules for lines. All sets are measured; the filter stage decides which of them edit the text."""

    c4: C4Lines = Field(default=C4Lines(), description="C4's rules (Raffel et al. 2020, section 2.2)")
    refinedweb: RefinedWebLines = Field(
        default=RefinedWebLines(), description="RefinedWeb's rules (Penedo et al. 2023, appendix G.2)"
    )


class LineRules(NamedTuple):
    """Lines for the kernels."""

    c4: C4Numbers
    refinedweb: RefinedWebNumbers


def line_rules(config: Lines) -> LineRules:
    """The rules for lines as numbers."""
    return LineRules(c4_numbers(config.c4), refinedweb_numbers(config.refinedweb))


class Verdicts(NamedTuple):
    """What becomes of each line of a document: room for the largest, used again for each."""

    sets: NDArray[np.uint8]  # (lines,) bits of the sets that remove it, or cut something out
    sizes: NDArray[np.int64]  # (lines,) bytes that RefinedWeb leaves of it, white space before it included
    line: NDArray[np.uint8]  # (bytes,) room for one line


def make_verdicts(records: Records, longest: int) -> Verdicts:
    """Room for the verdicts of documents of up to `longest` bytes. Memory that no document needs is never touched."""
    lines = len(records.lines)
    return Verdicts(np.empty(lines, np.uint8), np.empty(lines, np.int64), np.empty(longest, np.uint8))


@numba.njit(nogil=True, cache=True, inline="always")
def judge(
    data: NDArray[np.uint8],
    number: Int,
    records: Records,
    traits: NDArray[np.uint8],
    points: NDArray[np.uint16],
    rules: LineRules,
    counts: NDArray[np.int64],
    verdicts: Verdicts,
) -> tuple[np.int64, np.int64]:
    """Judge line `number` of a scanned document by all sets, with its marks (`count_marks`) in `counts`.

    Returns the position of its first character that is not white space, and the words that RefinedWeb removes.
    """
    row = records.lines[number]
    begin, end = row[LINE_BEGIN], row[LINE_END]
    first = begin if data[begin] > 0x20 and data[begin] < 0x80 else skip_space(data, begin, end, traits, end)
    fate, size, words = judge_line(
        data, first, end, row[LINE_CHARACTERS], row[LINE_WORDS], counts, points, traits, rules.refinedweb, verdicts.line
    )
    sets = BY_C4 * np.uint8(c4_removes(row, rules.c4))
    if fate == REMOVED:
        sets |= BY_REFINEDWEB
    elif fate == CUT:
        sets |= CUT_BY_REFINEDWEB
    verdicts.sets[number] = sets
    verdicts.sizes[number] = first - begin + size
    return first, words


@numba.njit(nogil=True, cache=True)
def _copy(data: NDArray[np.uint8], start: np.int64, length: np.int64, out: NDArray[np.uint8], at: np.int64) -> None:
    for byte in range(length):  # the assignment of one slice to another takes seconds to compile
        out[at + byte] = data[start + byte]


@numba.njit(nogil=True, cache=True)
def _write_line(
    data: NDArray[np.uint8],
    begin: np.int64,
    end: np.int64,
    cut: bool,
    traits: NDArray[np.uint8],
    rules: LineRules,
    verdicts: Verdicts,
    out: NDArray[np.uint8],
    at: np.int64,
) -> None:
    if not cut:
        _copy(data, begin, end - begin, out, at)
        return
    first = skip_space(data, begin, end, traits, end)
    _copy(data, begin, first - begin, out, at)
    start, stop, _ = cut_phrases(data, first, end, traits, rules.refinedweb.phrases, verdicts.line)
    _copy(verdicts.line, start, stop - start, out, at + first - begin)


@numba.njit(nogil=True, cache=True)
def keep_lines(
    data: NDArray[np.uint8],
    records: Records,
    traits: NDArray[np.uint8],
    rules: LineRules,
    verdicts: Verdicts,
    sets: int,
    out: NDArray[np.uint8],
    at: np.int64,
) -> tuple[np.int64, np.int64, np.int64, np.int64]:
    """Write the lines that `sets` leave of the judged document to out[at:].

    Returns how many lines stay, how many of them something is cut out of, their sentences and their bytes. They are
    joined by a line feed, or by two where a paragraph ended between them; white space at their ends goes. With `at`
    below 0 nothing is written.
    """
    kept = cuts = sentences = size = np.int64(0)
    gap = False
    for number in range(records.counters[LINES]):
        row = records.lines[number]
        gap = gap or row[LINE_FLAGS] & OPENS_PARAGRAPH != 0
        verdict = verdicts.sets[number]
        if verdict & sets:
            continue
        cut = sets & BY_REFINEDWEB != 0 and verdict & CUT_BY_REFINEDWEB != 0
        feeds = np.int64(0) if kept == 0 else np.int64(1) + gap
        length = verdicts.sizes[number] if cut else row[LINE_END] - row[LINE_BEGIN]
        if at >= 0:
            for feed in range(feeds):
                out[at + size + feed] = 0x0A
            _write_line(data, row[LINE_BEGIN], row[LINE_END], cut, traits, rules, verdicts, out, at + size + feeds)
        size += feeds + length
        kept += 1
        cuts += cut
        sentences += row[LINE_SENTENCES]
        gap = False
    return kept, cuts, sentences, size


@numba.njit(nogil=True, cache=True)
def _remove_lines(
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    tables: ScanTables,
    marks: Marks,
    rules: LineRules,
    sets: int,
    records: Records,
    verdicts: Verdicts,
    out: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    removed: NDArray[np.int64],
) -> None:
    """Fill `removed` (documents, 5): lines and bytes by C4, lines, bytes and cut lines by RefinedWeb."""
    at = np.int64(0)
    offsets[0] = 0
    counts = np.zeros(MARK_COUNTS, np.int64)
    for document in range(len(starts)):
        start, end = starts[document], ends[document]
        scan_document(data, start, end, tables, records)
        lines = records.counters[LINES]
        for number in range(lines):
            if sets & BY_REFINEDWEB:
                count_marks(data, records.lines[number, LINE_BEGIN], records.lines[number, LINE_END], marks, counts)
            judge(data, number, records, tables.traits, marks.points, rules, counts, verdicts)
        by_c4 = sets & BY_C4
        left, _, _, c4_size = keep_lines(data, records, tables.traits, rules, verdicts, by_c4, out, np.int64(-1))
        if left == lines:
            c4_size = end - start
        kept, cuts, _, size = keep_lines(data, records, tables.traits, rules, verdicts, sets, out, at)
        if kept == lines and cuts == 0:
            size = end - start
            _copy(data, start, size, out, at)
        removed[document, 0] = lines - left
        removed[document, 1] = end - start - c4_size
        removed[document, 2] = left - kept
        removed[document, 3] = c4_size - size
        removed[document, 4] = cuts
        at += size
        offsets[document + 1] = at


@cache
def _line_lexicon() -> Lexicon:
    return build_lexicon(PHRASES, {})


class Edited(NamedTuple):
    """Texts after the removal of lines, and what was removed by each of SETS."""

    texts: pa.LargeStringArray  # (documents,)
    removed_lines: NDArray[np.int64]  # (documents, sets)
    removed_bytes: NDArray[np.int64]  # (documents, sets); their sum is what the text became shorter by
    cut_lines: NDArray[np.int64]  # (documents, sets) lines that stay without a phrase


def remove_lines(texts: pa.Array | pa.ChunkedArray, rules: LineRules, sets: Collection[str] = SETS) -> Edited:
    """The texts without the lines that the rules of `sets` remove, and without what those cut out.

    A text that loses nothing is unchanged; nulls become empty texts. Raises TypeError where `texts` is neither string
    nor large_string, ValueError for a set that has no rules for lines.
    """
    for name in sets:
        if name not in SETS:
            raise ValueError(f"there are no rules for lines by the name {name!r}{did_you_mean(name, SETS)}")
    bits = sum(1 << number for number, name in enumerate(SETS) if name in sets)
    tables, marks = scan_tables(_line_lexicon()), make_marks()
    parts = [pa.array([], pa.large_string())]
    counts = [np.zeros((0, 5), np.int64)]
    for view in utf8_views(texts):
        documents = len(view.starts)
        longest = int((view.ends - view.starts).max(initial=0))
        records = make_records(longest, 0)
        out = np.empty(int((view.ends - view.starts).sum()), np.uint8)
        offsets, removed = np.empty(documents + 1, np.int64), np.empty((documents, 5), np.int64)
        verdicts = make_verdicts(records, longest)
        _remove_lines(*view, tables, marks, rules, bits, records, verdicts, out, offsets, removed)
        out.resize(int(offsets[-1]), refcheck=False)
        parts.append(large_strings(offsets, out))
        counts.append(removed)
    found = np.concatenate(counts)
    cuts = np.stack([np.zeros(len(found), np.int64), found[:, 4]], axis=1)
    return Edited(pa.concat_arrays(parts), found[:, [0, 2]], found[:, [1, 3]], cuts)  # type: ignore[arg-type]
