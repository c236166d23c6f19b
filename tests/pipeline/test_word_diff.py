from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.catalog.diff import CHARACTERS, LONGEST_CHANGE, LONGEST_WORD, Piece, word_diff

ALL = 10**9
SOME = ["aa", "bb", "cc", "dd", "水", "车"]


def whole(first: str, second: str) -> list[Piece]:
    return word_diff(first, second, context=ALL, most_shown=ALL)


def side(pieces: list[Piece], kind: str) -> str:
    assert all(piece.text for piece in pieces)
    return "".join(piece.text for piece in pieces if piece.kind in ("same", kind))


def words_of(pieces: list[Piece], *kinds: str) -> int:
    return sum(piece.words for piece in pieces if piece.kind in kinds)


@given(st.lists(st.sampled_from(SOME), max_size=60), st.lists(st.sampled_from(SOME[:5]), max_size=60))
def test_a_diff_holds_both_texts(first: list[str], second: list[str]) -> None:
    pieces = whole(" ".join(first), " ".join(second))
    assert side(pieces, "gone").split() == first
    assert side(pieces, "new").split() == second
    assert words_of(pieces, "same", "gone") == len(first)
    assert words_of(pieces, "same", "new") == len(second)


@given(st.lists(st.sampled_from(SOME), max_size=60), st.integers(0, 60), st.integers(0, 5))
def test_one_change_is_found(words: list[str], place: int, count: int) -> None:
    place = min(place, len(words))
    pieces = whole(" ".join(words), " ".join([*words[:place], *["zz"] * count, *words[place:]]))
    assert [(piece.text.split(), piece.kind) for piece in pieces if piece.kind != "same"] == [
        (["zz"] * count, "new") for _ in range(1 if count else 0)
    ]


def edited(words: list[str], share: float, chance: random.Random) -> tuple[list[str], int]:
    """The words, some of them replaced, dropped or followed by another, and how many were."""
    result, edits = [], 0
    for word in words:
        kind = chance.random() / share
        edits += kind < 1
        if kind < 1 / 3:
            continue
        if kind < 2 / 3:
            word = chr(0x9000 + chance.randrange(500)) if len(word) == 1 else f"other{chance.randrange(10**6)}"
        result.append(word)
        if 2 / 3 <= kind < 1:
            result.append(chance.choice(words))
    return result, edits


@pytest.mark.parametrize("share", [0.01, 0.1, 0.25])
@pytest.mark.parametrize("script", ["words", "characters"])
def test_long_texts_differ_where_they_were_edited(script: str, share: float) -> None:
    chance = random.Random(1)
    letters = [chr(0x4E00 + number) for number in range(3000)]
    vocabulary = letters if script == "characters" else [f"w{number}" for number in range(20_000)]
    first = [vocabulary[min(len(vocabulary) - 1, int(chance.paretovariate(0.7)))] for _ in range(20_000)]
    other, edits = edited(first, share, chance)
    between = " " if script == "words" else ""
    pieces = whole(between.join(first), between.join(other))
    assert words_of(pieces, "same", "gone") == len(first)
    assert words_of(pieces, "same", "new") == len(other)
    # At most a quarter more than what was done counts as changed.
    assert words_of(pieces, "gone") <= 1.25 * edits + 10


def test_an_excerpt_is_found_in_a_long_text() -> None:
    chance = random.Random(2)
    book = [f"w{chance.randrange(5000)}" for _ in range(60_000)]
    pieces = word_diff(" ".join(book[30_000:30_050]), " ".join(book))
    assert words_of(pieces, "gone") == 0
    assert words_of(pieces, "same") == 50
    assert words_of(pieces, "new") == 60_000 - 50
    shown = sum(piece.words for piece in pieces if piece.text)
    assert shown < 400


def test_letters_of_unspaced_scripts_are_words() -> None:
    pieces = word_diff("我喜欢这本书", "我喜欢那本书")
    assert [(piece.kind, piece.text) for piece in pieces] == [
        *(("same", "我喜欢"), ("gone", "这"), ("new", "那"), ("same", "本书"))
    ]


def test_white_space_makes_no_difference_and_line_breaks_stay() -> None:
    pieces = word_diff("  one\ttwo\n\n three four ", "one two\nthree   four")
    assert [(piece.kind, piece.text) for piece in pieces] == [("same", "one two\nthree four")]
    assert [piece.text for piece in word_diff("one\ntwo\nthree", "one\nthree") if piece.kind == "gone"] == ["two\n"]


def test_words_that_agree_by_chance_do_not_break_up_a_change() -> None:
    first = [f"a{n}" for n in range(20)] + ["the"] + [f"a{n}" for n in range(20, 40)]
    second = [f"b{n}" for n in range(20)] + ["the"] + [f"b{n}" for n in range(20, 40)]
    assert [piece.kind for piece in word_diff(" ".join(first), " ".join(second))] == ["gone", "new"]


def test_what_is_shown_is_bounded() -> None:
    common = " ".join(f"w{n}" for n in range(300))
    hidden = [piece for piece in word_diff(f"x {common} y", f"z {common} y") if not piece.text]
    assert hidden == [Piece("same", "", 301 - 12)]  # context stands before nothing but the end
    pieces = word_diff(" ".join(f"a{n}" for n in range(5000)), " ".join(f"b{n}" for n in range(5000)))
    assert [(piece.kind, bool(piece.text)) for piece in pieces] == [
        (kind, shown) for kind in ("gone", "new") for shown in (True, False, True)
    ]
    assert words_of(pieces, "gone") == words_of(pieces, "new") == 5000
    assert sum(piece.words for piece in pieces if piece.text) == 2 * LONGEST_CHANGE
    many = [f"w{n}" for n in range(4000)]
    changed = [word if number % 40 else f"{word}x" for number, word in enumerate(many)]
    pieces = word_diff(" ".join(many), " ".join(changed), most_shown=100)
    assert sum(piece.words for piece in pieces if piece.text) <= 100
    assert pieces[-1].kind == "rest"
    assert words_of(pieces, "same", "gone", "rest") > 3900
    (gone, _) = word_diff("x" * 100_000, "y")
    assert len(gone.text) == LONGEST_WORD + 1


def test_what_lies_behind_the_limit_is_not_compared() -> None:
    text = "word " * (CHARACTERS // 5)
    pieces = word_diff(text + "one", text + "two")
    assert words_of(pieces, "gone", "new") == 0
    assert pieces[-1] == Piece("rest", "", 0)


@pytest.mark.parametrize("letters", ["a", "ab", "abcdef"])
def test_repetitive_texts_end(letters: str) -> None:
    chance = np.random.default_rng(3)
    first, second = (" ".join(chance.choice(list(letters), 30_000)) for _ in range(2))
    pieces = word_diff(first, "z " + second)
    assert sum(piece.words for piece in pieces if piece.text) <= 700
