from __future__ import annotations

import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.text.sentences import _sentence_starts, sentence_starts
from tests.pipeline.text import reference
from tests.pipeline.text.strategies import arrays, texts

WORDS = "Mr. Dr e.g. U.S. No. 5 3. I won't. The the a word Word end. end! why? “Yes.” (so.) 好。 他说，"
BREAKS = ["\n", "\n\n", " ", "\r\n \n", "- ", "…", "... "]
PROSE = st.lists(st.sampled_from([*WORDS.split(), *BREAKS]), max_size=30).map(" ".join)


def starts_in(text: str) -> list[int]:
    offsets, starts = sentence_starts(pa.array([text], pa.large_string()))
    assert offsets.tolist() == [0, len(starts)]
    return starts.tolist()


def pieces_of(text: str) -> list[str]:
    data, starts = text.encode(), starts_in(text)
    return [data[a:b].decode() for a, b in zip(starts, [*starts, len(data)][1:], strict=True)]


def split(text: str) -> list[str]:
    return [piece.rstrip() for piece in pieces_of(text)]


@pytest.mark.parametrize(
    "sentences",
    [
        ["Hello there.", "My name is Dr. J. Smith, e.g. this.", "It is the U.S. Senate; she left the U.S.", "The end!"],
        [
            "It cost 3.14 dollars in 1998.",
            "He left at 5 p.m.",
            "She won't.",
            "Mary stayed (see No. 5.).",
            "No.",
            "Yes.",
        ],
        ["He asked “why?” and left.", '"No."', "He did.", "Well… yes.", "Well…", "Yes."],
        ["In Fig. 3 we follow Carter et al. (1999).", "A. B. Carter agrees."],
        ["यह एक वाक्य है।", "दूसरा वाक्य।"],
        ["هل هذا سؤال؟", "نعم."],
    ],
)
def test_sentences_of_a_line(sentences: list[str]) -> None:
    assert split(" ".join(sentences)) == sentences


def test_scripts_without_spaces_need_none() -> None:
    dialogue = ["他说：“你好！”", "然后走了。", "真的吗？！", "（是的。）", "好"]
    assert split("".join(dialogue)) == dialogue
    assert split("これは文です。次の文です｡") == ["これは文です。", "次の文です｡"]


def test_lines_of_wrapped_text_go_on_and_headings_do_not() -> None:
    wrapped = "A Heading\nThis is a line that has been wrapped at the usual width of a text and\ngoes on here. Next."
    assert split(wrapped)[0] == "A Heading"
    assert split(wrapped)[1].endswith("goes on here.")
    items = "Things to buy for the long way:\n- many apples, and pears\n- some bread of the last week\n12. wine"
    assert split(items) == items.split("\n")
    assert split("1. First. More.\n2. Second") == ["1. First.", "More.", "2. Second"]
    unwrapped = f"{'word ' * 40}end\nand this line begins with a small letter"
    assert len(split(unwrapped)) == 2
    assert len(split("床前明月光，\n疑是地上霜。\n举头望明月，\n低头思故乡。")) == 2


def test_a_blank_line_ends_a_sentence_and_what_has_no_word_is_none() -> None:
    assert split("one two\n\nthree") == ["one two", "three"]
    assert split("one two\r\n \t\r\nthree") == ["one two", "three"]
    assert split("One.\n\n* * *\n\nThree.") == ["One.", "* * *\n\nThree."]
    assert split("") == split(" \n\t") == []
    assert split("!!! ... ?") == ["!!! ... ?"]


@settings(max_examples=300, deadline=None)
@given(st.one_of(texts, PROSE))
def test_what_holds_for_any_text(text: str) -> None:
    starts, data = starts_in(text), text.encode()
    assert starts == sorted(set(starts))
    assert bool(starts) == bool(text.strip())
    if starts:
        assert not data[: starts[0]].decode().strip()
    pieces = pieces_of(text)
    for piece in pieces:
        assert not piece[0].isspace()
    for piece in pieces[:-1]:
        assert reference.words(piece)
    for piece in pieces:  # neither goes on over a blank line
        first, *others = "\n".join(line.strip() for line in piece.split("\n")).strip().split("\n\n")
        assert not others or not has_letter(first)


def has_letter(text: str) -> bool:
    return any(unicodedata.category(char)[0] in "LN" for char in text)


@settings(deadline=None)
@given(arrays())
def test_any_array_gives_the_sentences_of_its_texts(array: pa.Array | pa.ChunkedArray) -> None:
    offsets, starts = sentence_starts(array)
    assert offsets.dtype == starts.dtype == np.int64
    pieces = [starts[offsets[i] : offsets[i + 1]].tolist() for i in range(len(array))]
    assert pieces == [starts_in(text or "") for text in array.to_pylist()]


def test_any_bytes_stay_in_bounds() -> None:
    random = np.random.default_rng(7)
    for size in (0, 1, 2, 3, 50, 5000):
        data = random.integers(0, 256, size, np.uint8)
        buffers = [None, pa.py_buffer(np.array([0, size], np.int64)), pa.py_buffer(data)]
        _, starts = sentence_starts(pa.Array.from_buffers(pa.large_string(), 1, buffers))
        assert all(0 <= start < size for start in starts)


def test_one_compiled_version_serves_all_arrays() -> None:
    sentence_starts(pa.array(["a"], pa.string()))
    sentence_starts(pa.array(["a", None], pa.large_string())[1:])
    assert len(_sentence_starts.signatures) == 1
