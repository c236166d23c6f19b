from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.quality.c4 import C4Lines
from pipeline.quality.lines import SETS, Edited, Lines, line_rules, remove_lines
from pipeline.quality.refinedweb import RefinedWebLines
from pipeline.quality.signals import measure
from tests.pipeline.text import reference
from tests.pipeline.text.strategies import arrays, texts

LONG = "This line has enough words to stay."
REFINED: dict[str, Any] = {
    "minimum_words": 1,
    "short_line_words": 4,
    "phrases": ("word", "的"),
    "suffixes": ("six", "."),
}
C4: dict[str, Any] = {"minimum_words": 3, "maximum_word_length": 20}
RULES = line_rules(Lines(c4=C4Lines(**C4), refinedweb=RefinedWebLines(**REFINED)))


def edit(text: str, *sets: str) -> Edited:
    return remove_lines(pa.array([text]), line_rules(Lines()), sets or SETS)


@given(st.lists(texts, max_size=6), st.sampled_from(((), ("c4",), ("refinedweb",), SETS)))
@settings(max_examples=150, deadline=None)
def test_the_text_is_that_of_the_plain_statement(batch: list[str], sets: tuple[str, ...]):
    found = remove_lines(pa.array(batch, pa.large_string()), RULES, sets)
    found.texts.validate(full=True)
    expected = [reference.remove_lines(text, sets, REFINED, **C4) for text in batch]
    assert found.texts.to_pylist() == [text for text, _, _ in expected]
    assert found.removed_lines.sum(axis=1).tolist() == [removed for _, removed, _ in expected]
    assert found.cut_lines.sum(axis=1).tolist() == [cuts for _, _, cuts in expected]


@given(st.lists(texts, min_size=1, max_size=6))
@settings(max_examples=80, deadline=None)
def test_lines_and_bytes_are_counted_for_the_first_set_that_takes_them(batch: list[str]):
    array = pa.array(batch, pa.large_string())
    both, c4, refinedweb = (remove_lines(array, RULES, sets) for sets in (SETS, ("c4",), ("refinedweb",)))
    signals = measure(array, ["en"] * len(batch), RULES)
    assert (
        both.removed_lines[:, 0].tolist() == c4.removed_lines[:, 0].tolist() == signals["c4_removed_lines"].to_pylist()
    )
    assert (
        both.removed_bytes[:, 0].tolist() == c4.removed_bytes[:, 0].tolist() == signals["c4_removed_bytes"].to_pylist()
    )
    assert refinedweb.removed_lines[:, 1].tolist() == signals["refinedweb_removed_lines"].to_pylist()
    assert refinedweb.removed_bytes[:, 1].tolist() == signals["refinedweb_removed_bytes"].to_pylist()
    assert refinedweb.cut_lines[:, 1].tolist() == signals["refinedweb_cut_lines"].to_pylist()
    before = np.array([len(text.encode()) for text in batch])
    after = [len(text.encode()) for text in both.texts.to_pylist()]
    assert (before - both.removed_bytes.sum(axis=1)).tolist() == after
    assert (both.removed_bytes >= 0).all()
    # One set after the other comes to the same text.
    assert remove_lines(c4.texts, RULES, ("refinedweb",)).texts.equals(both.texts)


@given(texts)
@settings(max_examples=150, deadline=None)
def test_lines_that_stay_are_not_touched(text: str):
    found = remove_lines(pa.array([text]), RULES)
    lines = [line for line in found.texts.to_pylist()[0].split("\n") if line.strip()]
    assert len(lines) == len(reference.lines(text)) - found.removed_lines.sum()
    untouched = [line.rstrip() for line in text.split("\n")]
    assert sum(line.rstrip() not in untouched for line in lines) <= found.cut_lines.sum()


@given(arrays())
@settings(deadline=None)
def test_any_array(array: pa.Array | pa.ChunkedArray):
    found = remove_lines(array, line_rules(Lines()))
    assert found.removed_lines.shape == found.removed_bytes.shape == found.cut_lines.shape == (len(array), 2)
    alone = [edit(text or "") for text in array.to_pylist()]
    assert found.texts.to_pylist() == [one.texts.to_pylist()[0] for one in alone]
    for name in ("removed_lines", "removed_bytes", "cut_lines"):
        assert getattr(found, name).tolist() == [getattr(one, name)[0].tolist() for one in alone]


def test_a_line_that_breaks_the_rules_of_both_sets_is_taken_by_c4():
    found = edit(f"{LONG}\nMenu\nTHIS IS NOT A LINE OF TEXT\nPlease read more...\n{LONG}")
    assert found.texts.to_pylist() == [f"{LONG}\n{LONG}"]
    assert found.removed_lines.tolist() == [[2, 1]]
    assert found.removed_bytes.tolist() == [[25, 27]]


def test_no_set_removes_nothing():
    found = remove_lines(pa.array(["Menu\n\n3 likes\n"]), line_rules(Lines()), ())
    assert found.texts.to_pylist() == ["Menu\n\n3 likes\n"]
    assert not found.removed_lines.any()


def test_an_unknown_set_is_named():
    with pytest.raises(ValueError, match="'refined'; did you mean 'refinedweb'"):
        remove_lines(pa.array(["a"]), line_rules(Lines()), ["refined"])


@pytest.mark.parametrize(
    "text", ["", "a", "的", "\x00", "\n", "😀" * 50, "\x00" * 50, "שלום עולם, זה טקסט ארוך דיו", "\u200f"]
)
def test_strange_texts(text: str):
    found = edit(text)
    expected = reference.remove_lines(text, SETS)
    assert (found.texts.to_pylist()[0], found.removed_lines.sum(), found.cut_lines.sum()) == expected


def test_a_word_of_five_megabytes_goes_at_once():
    found = edit("likes" * 1_000_000 + "\n" + "1" * 1_000_000 + " likes\n" + "\u3000" * 100_000 + LONG)
    assert found.removed_lines.tolist() == [[2, 0]]
    assert edit("items in cart " * 100_000, "refinedweb").removed_lines.tolist() == [[0, 0]]
    short = RefinedWebLines(short_line_words=1 << 40)
    found = remove_lines(pa.array(["items in cart " * 100_000]), line_rules(Lines(refinedweb=short)), ["refinedweb"])
    assert found.removed_lines.tolist() == [[0, 1]]
