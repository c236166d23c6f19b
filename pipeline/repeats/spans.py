"""Spans of text that repeat what stands elsewhere: the schema that finders of repeated text write, and cutting them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.text.arrow import large_strings, utf8_view
from pipeline.text.scan import decode
from pipeline.text.tables import SPACE, TRAITS

SPANS_SCHEMA = pa.schema(
    [
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("begin", pa.int64(), nullable=False),
        pa.field("end", pa.int64(), nullable=False),
        pa.field("rule", pa.string(), nullable=False),
    ]
)
"""One row for each span to cut, ordered by shard, row and begin. `shard` and `row` are where the document lies among
the documents of `ingest`, `begin` and `end` are bytes of its UTF-8 text."""

CUTS_SCHEMA = pa.schema(
    [
        pa.field("text", pa.int64(), nullable=False),
        pa.field("rule", pa.string(), nullable=False),
        pa.field("spans", pa.int64(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
    ]
)
"""One row for each text and rule that cut something from it, ordered by text and then in the order of the rules: the
number of the text, spans of which bytes went under this rule, and those bytes."""

_MOST_RULES: Final = 255
_LINE_FEED: Final = 0x0A


@dataclass(frozen=True)
class Cut:
    """Texts after cutting."""

    texts: pa.LargeStringArray
    cuts: pa.Table  # of CUTS_SCHEMA
    blank: NDArray[np.bool_]  # (texts,): something was cut, and nothing but white space would be left


@numba.njit(nogil=True, cache=True, inline="always")
def _skip_spaces(data: NDArray[np.uint8], traits: NDArray[np.uint8], at: np.int64, end: np.int64) -> np.int64:
    """The first position from `at` on that is not white space, or `end`."""
    while at < end:
        point, after = decode(data, at, end)
        if not traits[point] & SPACE:
            break
        at = after
    return at


@numba.njit(nogil=True, cache=True, inline="always")
def _skip_spaces_back(data: NDArray[np.uint8], traits: NDArray[np.uint8], start: np.int64, at: np.int64) -> np.int64:
    """The position before `at` up to which there is only white space, but not before `start`."""
    while at > start:
        before = at - 1
        while before > start and data[before] & 0xC0 == 0x80:
            before -= 1
        point, _ = decode(data, before, at)
        if not traits[point] & SPACE:
            break
        at = before
    return at


@numba.njit(nogil=True, cache=True)
def _line_feeds(data: NDArray[np.uint8], begin: np.int64, end: np.int64) -> tuple[np.int64, np.int64]:
    """Line feeds in data[begin:end], and the position after the last one (`begin` where there is none)."""
    count, last = np.int64(0), begin
    for at in range(begin, end):
        if data[at] == _LINE_FEED:
            count += 1
            last = np.int64(at + 1)
    return count, last


@numba.njit(nogil=True, cache=True)
def _copy(data: NDArray[np.uint8], begin: np.int64, end: np.int64, target: NDArray[np.uint8], at: np.int64) -> np.int64:
    target[at : at + end - begin] = data[begin:end]
    return at + end - begin


@numba.njit(nogil=True, cache=True)
def _runs(
    data: NDArray[np.uint8],
    traits: NDArray[np.uint8],
    start: np.int64,
    begins: NDArray[np.int64],
    ends: NDArray[np.int64],
    runs: NDArray[np.int64],
) -> int:
    """The union of spans (ascending by begin) as runs [begin, end) of `data`, without white space at their ends."""
    count = 0
    at = 0
    while at < len(begins):
        begin, end = begins[at], ends[at]
        while at < len(begins) and begins[at] <= end:
            end = max(end, ends[at])
            at += 1
        begin = _skip_spaces(data, traits, start + begin, start + end)
        end = _skip_spaces_back(data, traits, begin, start + end)
        if begin < end:
            runs[count, 0], runs[count, 1] = begin, end
            count += 1
    return count


@numba.njit(nogil=True, cache=True)
def _own(
    data: NDArray[np.uint8],
    traits: NDArray[np.uint8],
    start: np.int64,
    begins: NDArray[np.int64],
    ends: NDArray[np.int64],
    rules: NDArray[np.int64],
    owners: NDArray[np.uint8],
    counts: NDArray[np.int64],
) -> None:
    """Give each byte of a text's spans to the first rule that takes it; counts[rule, 0]: spans with any text left."""
    for rule in range(len(counts) - 1, -1, -1):
        for span in range(len(rules)):
            if rules[span] == rule:
                owners[begins[span] : ends[span]] = np.uint8(rule + 1)
    for span in range(len(rules)):
        at = start + begins[span]
        while at < start + ends[span]:
            owner = owners[at - start]
            point, at = decode(data, at, start + ends[span])
            if owner == rules[span] + 1 and not traits[point] & SPACE:
                counts[rules[span], 0] += 1
                break


@numba.njit(nogil=True, cache=True)
def _count_bytes(
    data: NDArray[np.uint8],
    traits: NDArray[np.uint8],
    start: np.int64,
    begin: np.int64,
    end: np.int64,
    owners: NDArray[np.uint8],
    counts: NDArray[np.int64],
) -> None:
    """Add the bytes of a run to counts[rule, 1]; white space counts for the rule of the text before it."""
    rule = np.int64(0)
    while begin < end:
        point, after = decode(data, begin, end)
        if not traits[point] & SPACE:
            rule = np.int64(owners[begin - start]) - 1
        counts[rule, 1] += after - begin
        begin = after


@numba.njit(nogil=True, cache=True)
def _join(
    data: NDArray[np.uint8],
    traits: NDArray[np.uint8],
    left: np.int64,
    end: np.int64,
    runs: NDArray[np.int64],
    inside: bool,
    target: NDArray[np.uint8],
    written: np.int64,
) -> tuple[int, np.int64, np.int64]:
    """Close the gap that the first of the runs leaves, with those after it that only white space parts from it.

    The white space before it begins at `left`. Returns how many runs went, where the text goes on, and the new
    `written`. Of all white space in the gap that with most line breaks is written, of several the last, and the
    indentation of the line that follows; none where the gap is at the end of the text, or not `inside` it.
    """
    begin, stop = left, runs[0, 0]
    breaks, after_breaks = _line_feeds(data, begin, stop)
    count = 0
    while True:
        last = runs[count, 1]
        right = _skip_spaces(data, traits, last, end)
        count += 1
        last_breaks, last_after_breaks = _line_feeds(data, last, right)
        if last_breaks > breaks or (last_breaks == breaks and (breaks > 0 or begin == stop)):
            begin, stop, breaks, after_breaks = last, right, last_breaks, last_after_breaks
        if count == len(runs) or runs[count, 0] > right:
            break
    if inside and right < end:
        if last_breaks > 0 and last != begin:
            written = _copy(data, begin, after_breaks, target, written)
            begin, stop = last_after_breaks, right
        written = _copy(data, begin, stop, target, written)
    return count, right, written


@numba.njit(nogil=True, cache=True)
def _cut(
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    traits: NDArray[np.uint8],
    bounds: NDArray[np.int64],
    span_begins: NDArray[np.int64],
    span_ends: NDArray[np.int64],
    span_rules: NDArray[np.int64],
    offsets: NDArray[np.int64],
    target: NDArray[np.uint8],
    counts: NDArray[np.int64],
    blank: NDArray[np.bool_],
) -> None:
    """Write texts without their spans bounds[i]:bounds[i + 1] into `target`; `counts` is (texts, rules, 2)."""
    longest = most = np.int64(0)
    for text in range(len(starts)):
        if bounds[text + 1] > bounds[text]:
            longest = max(longest, ends[text] - starts[text])
            most = max(most, bounds[text + 1] - bounds[text])
    owners = np.empty(longest, np.uint8)  # of each byte of a text's spans: the first rule that takes it, plus 1
    runs = np.empty((most, 2), np.int64)
    written = np.int64(0)
    offsets[0] = 0
    for text in range(len(starts)):
        start, end = starts[text], ends[text]
        low, high = bounds[text], bounds[text + 1]
        free = start  # what is not copied yet
        if low < high:
            begins, stops, rules = span_begins[low:high], span_ends[low:high], span_rules[low:high]
            _own(data, traits, start, begins, stops, rules, owners, counts[text])
            number = _runs(data, traits, start, begins, stops, runs)
            run = 0
            while run < number:
                left = _skip_spaces_back(data, traits, free, runs[run, 0])
                written = _copy(data, free, left, target, written)
                inside = written > offsets[text]
                count, right, joined = _join(data, traits, left, end, runs[run:number], inside, target, written)
                spaces = right - left - (joined - written)  # that went beside the runs
                for cut in range(run, run + count):
                    spaces -= runs[cut, 1] - runs[cut, 0]
                    _count_bytes(data, traits, start, runs[cut, 0], runs[cut, 1], owners, counts[text])
                counts[text, np.int64(owners[runs[run, 0] - start]) - 1, 1] += spaces
                written, free = joined, right
                run += count
            blank[text] = number > 0 and free == end and written == offsets[text]
        written = _copy(data, free, end, target, written)
        offsets[text + 1] = written


@numba.njit(nogil=True, cache=True)
def _first_wrong(
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    texts: NDArray[np.int64],
    span_begins: NDArray[np.int64],
    span_ends: NDArray[np.int64],
) -> int:
    """Number of the first span that is not of whole characters of its text, or -1."""
    for span in range(len(texts)):
        start, length = starts[texts[span]], ends[texts[span]] - starts[texts[span]]
        begin, end = span_begins[span], span_ends[span]
        if not 0 <= begin <= end <= length:
            return span
        if (begin < length and data[start + begin] & 0xC0 == 0x80) or (
            end < length and data[start + end] & 0xC0 == 0x80
        ):
            return span
    return -1


def cut_spans(texts: pa.LargeStringArray, rows: NDArray[np.int64], spans: pa.Table, rules: Sequence[str]) -> Cut:
    """Cut spans from texts and close the gaps.

    `rows` (texts,) are the rows of the texts in their shard, ascending; `spans` is of SPANS_SCHEMA, of that shard and
    of these rows only, in any order; spans may overlap. Where several rules take a byte it counts for the first in
    `rules`. All that a span covers goes, but white space: of that on either side of a gap what parts the text most
    stays, a blank line rather than a line break rather than a space, and at the ends of a text none of it. What goes
    of it counts for a rule that cuts beside it, so that the bytes of all rules are the bytes that went.

    Texts without spans come back as they are. Raises ValueError for a span that is not of whole characters of a text,
    that is of no text, or of a rule that is not in `rules`.
    """
    if len(rules) > _MOST_RULES:
        raise ValueError(f"{len(rules)} rules are more than {_MOST_RULES}")
    view = utf8_view(texts)
    counts = np.zeros((len(texts), len(rules), 2), np.int64)
    blank = np.zeros(len(texts), np.bool_)
    if len(spans) == 0:
        return Cut(texts, CUTS_SCHEMA.empty_table(), blank)
    numbers, begins, ends, span_rules = _sorted_spans(rows, spans, rules)
    wrong = _first_wrong(view.data, view.starts, view.ends, numbers, begins, ends)
    if wrong >= 0:
        raise ValueError(
            f"row {rows[numbers[wrong]]}: the span [{begins[wrong]}, {ends[wrong]}) is not of whole characters of a "
            f"text of {view.ends[numbers[wrong]] - view.starts[numbers[wrong]]} bytes; it was found in another text"
        )
    bounds = np.searchsorted(numbers, np.arange(len(texts) + 1))
    offsets = np.empty(len(texts) + 1, np.int64)
    target = np.empty(int((view.ends - view.starts).sum()), np.uint8)
    _cut(
        view.data,
        view.starts,
        view.ends,
        TRAITS,
        bounds,
        begins,
        ends,
        span_rules,
        offsets,
        target,
        counts,
        blank,
    )
    target.resize(offsets[-1], refcheck=False)  # gives the unused end back without a copy
    return Cut(large_strings(offsets, target), _cuts(counts, rules), blank)


def _sorted_spans(
    rows: NDArray[np.int64], spans: pa.Table, rules: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Number of the text, begin, end and number of the rule of each span, by text and begin."""
    span_rows, begins, ends = (np.asarray(spans[name].to_numpy(), np.int64) for name in ("row", "begin", "end"))
    numbers = np.searchsorted(rows, span_rows)
    found = np.append(rows, -1)[numbers] == span_rows
    if not found.all():
        raise ValueError(f"row {span_rows[~found][0]}: a span of a document that is not among the texts")
    span_rules = spans["rule"].combine_chunks().dictionary_encode()
    names = span_rules.dictionary.to_pylist()
    unknown = sorted(set(names) - set(rules))
    if unknown:
        raise ValueError(f"spans of the rule {unknown[0]!r}, which is not one of {', '.join(rules)}")
    places = np.array([rules.index(name) for name in names], np.int64)[span_rules.indices.to_numpy()]
    order = np.lexsort((begins, numbers))
    return numbers[order], begins[order], ends[order], places[order]


def _cuts(counts: NDArray[np.int64], rules: Sequence[str]) -> pa.Table:
    texts, numbers = np.nonzero(counts[:, :, 1])
    names = pa.DictionaryArray.from_arrays(numbers.astype(np.int16), pa.array(rules, pa.string())).cast(pa.string())
    columns = {"text": texts, "rule": names, "spans": counts[texts, numbers, 0], "bytes": counts[texts, numbers, 1]}
    return pa.table(columns, schema=CUTS_SCHEMA)
