from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.decontamination.config import Cut
from pipeline.decontamination.cutting import SEPARATOR, cut, pieces_of
from pipeline.decontamination.matching import Spans
from tests.pipeline.decontamination import reference

TEXT = st.text(st.sampled_from("ab é水🙂\n"), max_size=60)


def spans_of(*rows: tuple[int, int, int]) -> Spans:
    return Spans(*(np.array([row[column] for row in sorted(rows)], np.int64) for column in range(3)))


@st.composite
def cuts(draw: st.DrawFn) -> tuple[list[str], list[tuple[int, int, int]]]:
    documents = draw(st.lists(TEXT, min_size=1, max_size=3))
    rows = set()
    for number, document in enumerate(documents):
        for _ in range(draw(st.integers(0, 5)) if document else 0):
            begin = draw(st.integers(0, len(document) - 1))
            end = draw(st.integers(begin + 1, len(document)))
            rows.add((number, len(document[:begin].encode()), len(document[:end].encode())))
    return documents, sorted(rows)


@settings(max_examples=300, deadline=None)
@given(cuts(), st.integers(0, 4), st.integers(0, 5), st.integers(1, 3))
def test_a_cut_keeps_what_the_rule_says(
    drawn: tuple[list[str], list[tuple[int, int, int]]], window: int, piece: int, most: int
):
    documents, rows = drawn
    rule = Cut(window_characters=window, minimum_piece_characters=piece, maximum_pieces=most)
    texts = pa.array(documents, pa.large_string())
    made = cut(texts, spans_of(*rows), rule)
    touched = sorted({row[0] for row in rows})
    assert made.document.tolist() == touched
    for number, document in enumerate(touched):
        pieces, kept = reference.cut(documents[document], [row[1:] for row in rows if row[0] == document], rule)
        assert made.pieces[number] == len(pieces)
        text = made.texts[number]
        assert (None if text is None else text.decode()) == kept
        assert made.dropped[number] == (kept is None)


def test_gpt3s_numbers():
    def characters(begin: int, end: int) -> tuple[int, int, int]:
        return (0, 2 * begin, 2 * end)  # of two bytes each

    text = pa.array(["é" * 1000 + "à" * 1000], pa.large_string())
    made = cut(text, spans_of(characters(990, 1010)), Cut())
    assert made.texts == [("é" * 790).encode() + SEPARATOR + ("à" * 790).encode()]
    made = cut(text, spans_of(characters(400, 410), characters(1010, 1020)), Cut())
    assert made.texts == [("é" * 200).encode() + SEPARATOR + ("é" * 200).encode() + SEPARATOR + ("à" * 780).encode()]
    made = cut(text, spans_of(characters(399, 410), characters(1010, 1020)), Cut())  # the first piece has 199
    assert made.texts == [("é" * 200).encode() + SEPARATOR + ("à" * 780).encode()]
    assert made.pieces.tolist() == [3]


def test_more_than_ten_pieces_drop_the_document():
    text = pa.array(["x" * 500 * 12], pa.large_string())
    spans = [(0, 500 * (number + 1), 500 * (number + 1) + 1) for number in range(11)]
    assert cut(text, spans_of(*spans[:9]), Cut()).dropped.tolist() == [False]
    made = cut(text, spans_of(*spans[:10]), Cut())
    assert (made.pieces.tolist(), made.dropped.tolist(), made.texts) == ([11], [True], [None])


def test_nothing_left_drops_the_document():
    made = cut(pa.array(["x" * 300, "y"], pa.large_string()), spans_of((0, 100, 120)), Cut())
    assert (made.document.tolist(), made.pieces.tolist(), made.texts) == ([0], [0], [None])


def test_pieces_of_slices_and_nulls():
    texts = pa.array(["gone", None, "0123456789", ""], pa.large_string()).slice(1)
    pieces = pieces_of(texts, spans_of((1, 4, 5)), 2)
    assert [*zip(*(column.tolist() for column in pieces), strict=True)] == [(1, 0, 2, 2), (1, 7, 10, 3)]
