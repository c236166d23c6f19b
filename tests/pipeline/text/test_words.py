from __future__ import annotations

import importlib.util
import itertools
import sys
import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.text import words as module
from pipeline.text.arrow import utf8_view
from pipeline.text.words import BLANK, SEGMENTERS, WORD_START, SegmenterMissing, word_flags
from tests.pipeline.text import reference
from tests.pipeline.text.strategies import texts

RUNS = st.text(
    st.sampled_from("我们在北京大学学习語々東京でカードするー \u0301\u00ad\u3099aZ5'’.,—๐กำ한\n\u3000"), max_size=40
)


def kana(char: str) -> str | None:
    name = unicodedata.name(char, "").removeprefix("HALFWIDTH ")
    return next((script for script in ("HIRAGANA", "KATAKANA") if name.startswith(script)), None)


def extends(char: str) -> bool:
    category = unicodedata.category(char)
    return category[0] == "M" or (category == "Cf" and char != "\u200b")


def joins(text: str, at: int) -> bool:
    """Whether an apostrophe stands between two runs of letters and numbers, format characters passed over."""
    before, after = text[:at], text[at + 1 :]
    while before and extends(before[-1]):
        before = before[:-1]
    while after and unicodedata.category(after[0]) == "Cf" and after[0] != "\u200b":
        after = after[1:]
    return bool(before and after and reference.is_word_char(before[-1]) and reference.is_word_char(after[0]))


def word_starts(text: str) -> list[int]:
    """Characters that begin a word, each Han character one: a plain statement of the rule."""
    found: list[int] = []
    last = " "  # what the character before belongs to: a letter, a script, anything else
    for at, char in enumerate(text):
        if char.isspace():
            last = " "
            continue
        if extends(char):
            if last == " ":
                found.append(at)
                last = "?"
            continue
        kind = "?"
        if reference.is_han(char):
            kind = "HAN"
        elif reference.unspaced(char):
            kind = kana(char) or "?"
        elif reference.is_word_char(char) or (char in "'’" and joins(text, at)):
            kind = "WORD"
        if kind in ("?", "HAN") or kind != last:
            found.append(at)
        last = kind
    return found


def flagged(text: str, segmenter: str = "characters", bit: int = WORD_START) -> list[int]:
    """Characters whose first byte has a bit."""
    view = utf8_view(pa.array(["Zz 我", text], pa.large_string())[1:])
    flags, base = word_flags(view, SEGMENTERS[segmenter])  # type: ignore[index]
    assert base + len(flags) == view.ends[0] or not text
    starts = np.cumsum([0, *(len(char.encode()) for char in text)])[:-1]
    assert not np.delete(flags, starts).any() or bit != WORD_START or not (np.delete(flags, starts) & bit).any()
    return np.flatnonzero(flags[starts] & bit).tolist() if text else []


def cut(text: str, segmenter: str) -> list[str]:
    starts = [*flagged(text, segmenter), len(text)]
    return [text[a:b].rstrip() for a, b in itertools.pairwise(starts)]


@settings(max_examples=300, deadline=None)
@given(st.one_of(texts, RUNS))
def test_words_are_those_of_the_plain_statement(text: str) -> None:
    expected = word_starts(text)
    # A run of Han characters is the segmenter's only without kana: beside kana it is one word.
    alone = [at for at in expected if not (reference.is_han(text[at]) and in_japanese(text, at))]
    runs = [at for at in expected if reference.is_han(text[at]) and in_japanese(text, at) and begins_run(text, at)]
    assert flagged(text) == sorted([*alone, *runs])


def run_of(text: str, at: int) -> tuple[int, int]:
    def belongs(char: str) -> bool:
        return extends(char) or reference.is_han(char) or kana_letter(char)

    start, end = at, at + 1
    while start and belongs(text[start - 1]):
        start -= 1
    while end < len(text) and belongs(text[end]):
        end += 1
    return start, end


def kana_letter(char: str) -> bool:
    return reference.unspaced(char) and kana(char) is not None


def in_japanese(text: str, at: int) -> bool:
    start, end = run_of(text, at)
    return any(map(kana_letter, text[start:end]))


def begins_run(text: str, at: int) -> bool:
    before = text[:at]
    while before and extends(before[-1]):
        before = before[:-1]
    return not (before and reference.is_han(before[-1]))


@settings(max_examples=100, deadline=None)
@given(texts)
def test_white_space_is_marked_as_such(text: str) -> None:
    view = utf8_view(pa.array([text], pa.large_string()))
    flags, _ = word_flags(view, SEGMENTERS["characters"])
    expected = [BLANK * char.isspace() for char in text for _ in char.encode()]
    assert (flags & BLANK).tolist() == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't stop-me NOW... ’tis ok'", ["Don't", "stop", "-", "me", "NOW", ".", ".", ".", "’", "tis", "ok", "'"]),
        ("我们在北京大学学习中文。2024年", ["我们", "在", "北京大学", "学习", "中文", "。", "2024", "年"]),
        ("東京大学でカードがある。", ["東京大学", "で", "カード", "がある", "。"]),
        ("𠀀𠀁人民", ["𠀀", "𠀁", "人民"]),
        ("我\n们", ["我", "们"]),
        ("", []),
    ],
)
def test_words_of_a_text(text: str, words: list[str]) -> None:
    assert cut(text, "jieba") == words


@settings(max_examples=60, deadline=None)
@given(st.lists(RUNS, max_size=5))
def test_texts_do_not_touch_each_other(given_texts: list[str]) -> None:
    view = utf8_view(pa.array(given_texts, pa.string()))
    for name in SEGMENTERS:
        flags, base = word_flags(view, SEGMENTERS[name])
        for text, start, end in zip(given_texts, view.starts - base, view.ends - base, strict=True):
            alone, _ = word_flags(utf8_view(pa.array([text], pa.string())), SEGMENTERS[name])
            assert flags[start:end].tolist() == alone.tolist()


def test_runs_are_segmented_in_pieces_of_some_size(monkeypatch: pytest.MonkeyPatch) -> None:
    view = utf8_view(pa.array(["我们在北京大学学习中文。中国人民，经济发展"] * 20))
    whole, _ = word_flags(view, SEGMENTERS["jieba"])
    monkeypatch.setattr(module, "_SEGMENTED_TOGETHER", 50)
    assert np.array_equal(word_flags(view, SEGMENTERS["jieba"])[0], whole)


def test_without_the_segmenter_only_chinese_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    assert importlib.util.find_spec("rjieba") is not None
    module._rjieba.cache_clear()
    monkeypatch.setitem(sys.modules, "rjieba", None)  # makes the import fail
    assert cut("no Chinese 東京で", "jieba") == ["no", "Chinese", "東京", "で"]
    with pytest.raises(SegmenterMissing, match="pip install rjieba"):
        cut("中文", "jieba")
    assert cut("中文", "characters") == ["中", "文"]
    module._rjieba.cache_clear()
