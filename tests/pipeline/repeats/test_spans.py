"""Cutting spans from texts, against a plain statement in Python."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.repeats.spans import SPANS_SCHEMA, Cut, cut_spans
from tests.pipeline.dedup.corpora import compiling

RULES = ("a", "b", "c")
Span = tuple[int, int, int, str]  # row, begin, end, rule

some_text = st.text(st.sampled_from("ab我é𝄞\u3000 \n\t"), max_size=25)


@st.composite
def texts_with_spans(draw: st.DrawFn) -> tuple[list[str], list[Span]]:
    texts = draw(st.lists(some_text, max_size=5))
    spans = []
    for row, text in enumerate(texts):
        places = st.integers(0, len(text))
        for first, second, rule in draw(st.lists(st.tuples(places, places, st.sampled_from(RULES)), max_size=4)):
            begin, end = sorted((first, second))
            spans.append((row, len(text[:begin].encode()), len(text[:end].encode()), rule))
    return texts, draw(st.permutations(spans))


def cut(texts: Sequence[str], spans: Sequence[Span], rules: Sequence[str] = RULES) -> Cut:
    """Cut from texts that lie in rows 5, 8, 11, ..., and in the middle of an Arrow array."""
    rows = 5 + 3 * np.arange(len(texts))
    column = pa.array(["before", *texts, "after"], pa.large_string()).slice(1, len(texts))
    columns = list(zip(*((0, rows[row], begin, end, rule) for row, begin, end, rule in spans), strict=True))
    table = pa.table(columns, schema=SPANS_SCHEMA) if spans else SPANS_SCHEMA.empty_table()
    return cut_spans(column, rows, table, rules)


def plain_cut(text: str, spans: Sequence[Span]) -> str:
    """The union of spans becomes a gap; the white space in and around gaps becomes one piece of white space."""
    mark = [False] * len(text)
    for _, begin, end, _ in spans:
        first, last = len(text.encode()[:begin].decode()), len(text.encode()[:end].decode())
        mark[first:last] = [True] * (last - first)
    # One character for each: R removed, K kept, S white space to keep, s white space to remove.
    kinds = "".join(
        ("s" if gone else "S") if char.isspace() else ("R" if gone else "K")
        for char, gone in zip(text, mark, strict=True)
    )
    result, at = "", 0
    for gap in re.finditer(r"[Ss]*R[RSs]*", kinds):
        result += text[at : gap.start()]
        at = gap.end()
        if not gap.start() or gap.end() == len(text):
            continue
        # White space within the gap counts where any of it lies outside of the spans, and at both ends.
        pieces = []
        for piece in re.finditer("^[Ss]*|[Ss]*$|[Ss]*S[Ss]*", gap.group()):
            pieces.append(text[gap.start() + piece.start() : gap.start() + piece.end()])
        chosen = pieces[0]
        for piece in pieces[1:]:
            breaks = piece.count("\n")
            if breaks > chosen.count("\n") or (breaks == chosen.count("\n") and (breaks or not chosen)):
                chosen = piece
        if "\n" in pieces[-1]:
            chosen = chosen[: chosen.rfind("\n") + 1] + pieces[-1][pieces[-1].rfind("\n") + 1 :]
        result += chosen
    return result + text[at:]


@compiling
@given(texts_with_spans())
def test_plain_statement(case: tuple[list[str], list[Span]]) -> None:
    texts, spans = case
    found = cut(texts, spans)
    found.texts.validate(full=True)
    for row, text in enumerate(texts):
        own = [span for span in spans if span[0] == row]
        left = found.texts[row].as_py()
        assert left == plain_cut(text, own)
        rows = [cut for cut in found.cuts.to_pylist() if cut["text"] == row]
        assert sum(cut["bytes"] for cut in rows) == len(text.encode()) - len(left.encode())
        assert found.blank[row] == (left != text and not left.strip())
        gone = "".join(char for char in text if not char.isspace())
        assert len(gone) - len("".join(left.split())) == len(visible_bytes(text, own))
        owned = dict.fromkeys(RULES, 0)
        for rule in visible_bytes(text, own).values():
            owned[rule] += 1
        assert [cut["rule"] for cut in rows] == [rule for rule in RULES if owned[rule]]
        for entry in rows:
            least = sum(
                len(text[at].encode()) for at, rule in visible_bytes(text, own).items() if rule == entry["rule"]
            )
            assert entry["bytes"] >= least
            assert 1 <= entry["spans"] <= sum(span[3] == entry["rule"] for span in own)


def visible_bytes(text: str, spans: Sequence[Span]) -> dict[int, str]:
    """The first rule of each character that goes and is not white space."""
    owner: dict[int, str] = {}
    for rule in RULES:
        for _, begin, end, name in spans:
            if name == rule:
                first, last = len(text.encode()[:begin].decode()), len(text.encode()[:end].decode())
                for at in range(first, last):
                    if not text[at].isspace():
                        owner.setdefault(at, rule)
    return owner


@pytest.mark.parametrize(
    ("text", "gone", "left"),
    [
        ("One.\nTwo.\nThree.", ["Two."], "One.\nThree."),
        ("One.\nTwo.\nThree.", ["Two.\n"], "One.\nThree."),
        ("One.\nTwo.\nThree.", ["Three."], "One.\nTwo."),
        ("One.\nTwo.\nThree.", ["One.", "Two."], "Three."),
        ("One.\n\nTwo.\n\nThree.", ["Two."], "One.\n\nThree."),
        ("One.\n\nTwo.\nThree.", ["Two."], "One.\n\nThree."),
        ("One. Two. Three.\nFour.", ["Two. Three."], "One.\nFour."),
        ("One. Two. Three.\nFour.", ["Two."], "One. Three.\nFour."),
        ("One.\nTwo. Three.", ["Two."], "One.\nThree."),
        ("def f():\n    print()\nf()", ["print()"], "def f():\nf()"),
        ("One. \nTwo.\nThree.", ["Two."], "One.\nThree."),
        ("One.\r\nTwo.\r\nThree.", ["Two."], "One.\r\nThree."),
        ("one two three", [" two "], "one three"),
        ("我们去。他们来。天", ["他们来。"], "我们去。天"),
        ("\nOne.\n", ["One."], ""),
    ],
)
def test_text_reads_on(text: str, gone: list[str], left: str) -> None:
    data = text.encode()
    spans = [(0, data.index(piece.encode()), data.index(piece.encode()) + len(piece.encode()), "a") for piece in gone]
    assert cut([text], spans).texts.to_pylist() == [left]


def test_bytes_count_once_for_the_first_rule() -> None:
    spans = [(0, 0, 8, "b"), (0, 2, 4, "a"), (0, 2, 4, "c"), (1, 0, 1, "c"), (1, 1, 2, "c")]
    found = cut(["abcdefghij", "xyz", "left"], spans)
    assert found.texts.to_pylist() == ["ij", "z", "left"]
    assert [tuple(row.values()) for row in found.cuts.to_pylist()] == [(0, "a", 1, 2), (0, "b", 1, 6), (1, "c", 2, 2)]
    assert found.blank.tolist() == [False] * 3
    other = cut(["abcdefghij"], spans[:3], ("c", "b", "a"))
    assert [tuple(row.values()) for row in other.cuts.to_pylist()] == [(0, "c", 1, 2), (0, "b", 1, 6)]


def test_texts_without_spans_are_the_same_object() -> None:
    texts = pa.array(["a", "b"], pa.large_string())
    found = cut_spans(texts, np.arange(2), SPANS_SCHEMA.empty_table(), RULES)
    assert found.texts is texts
    assert len(found.cuts) == 0
    assert not found.blank.any()


@pytest.mark.parametrize(
    ("span", "message"),
    [
        ((1, 0, 1, "a"), r"row 8: the span \[0, 1\) is not of whole characters of a text of 6 bytes"),
        ((1, 1, 3, "a"), "row 8"),
        ((1, 3, 7, "a"), "row 8"),
        ((1, -1, 3, "a"), "row 8"),
        ((1, 6, 3, "a"), "row 8"),
        ((0, 0, 1, "z"), "spans of the rule 'z', which is not one of a, b, c"),
    ],
)
def test_wrong_spans(span: Span, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cut(["abc", "我们"], [(0, 0, 1, "a"), span])


def test_span_of_another_row() -> None:
    table = pa.table([[0], [7], [0], [1], ["a"]], schema=SPANS_SCHEMA)
    with pytest.raises(ValueError, match="row 7: a span of a document that is not among the texts"):
        cut_spans(pa.array(["abc", "def"], pa.large_string()), np.array([5, 8]), table, RULES)
