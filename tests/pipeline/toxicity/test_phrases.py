"""The kernels against plain Python."""

import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.text.arrow import utf8_view
from pipeline.text.scan import word_hashes
from pipeline.toxicity.phrases import compile_phrases, compile_symbols, count_phrases, count_symbols
from tests.pipeline.text.reference import words

FRAGMENTS = [
    "bad",
    "Bad",
    "word",
    "don't",
    "very",
    "奶",
    "子",
    "奶子",
    "ก",
    "e\u0301",
    " ",
    " ",
    " ",
    "-",
    "。",
    "x1",
    "İ",
]
TEXTS = st.lists(st.lists(st.sampled_from(FRAGMENTS), max_size=25).map("".join), max_size=6)
ENTRIES = st.lists(st.lists(st.sampled_from(FRAGMENTS), max_size=6).map("".join), max_size=8)


def greedy(text_words: list[str], phrases: set[tuple[str, ...]]) -> tuple[int, int]:
    matches = covered = at = 0
    while at < len(text_words):
        fitting = [len(p) for p in phrases if p and tuple(text_words[at : at + len(p)]) == p]
        longest = max(fitting, default=0)
        matches, covered, at = matches + bool(longest), covered + longest, at + (longest or 1)
    return matches, covered


def hashed(entries: list[str]) -> list[tuple[int, ...]]:
    offsets, hashes = word_hashes(pa.array(entries, pa.large_string()))
    return [tuple(hashes[offsets[n] : offsets[n + 1]].tolist()) for n in range(len(entries))]


def count(texts: list[str], phrases: list[tuple[int, ...]]) -> list[tuple[int, int]]:
    found, covered = np.zeros((2, len(texts)), np.int64)
    offsets, hashes = word_hashes(pa.array(texts, pa.large_string()))
    count_phrases(offsets, hashes, np.arange(len(texts)), compile_phrases(phrases), found, covered)
    return list(zip(found.tolist(), covered.tolist(), strict=True))


@given(TEXTS, ENTRIES)
def test_phrases_as_in_plain_python(texts, entries):
    expected = [greedy(words(text), {tuple(words(entry)) for entry in entries}) for text in texts]
    assert count(texts, hashed(entries)) == expected


def test_many_phrases_fill_the_table():
    rng = random.Random(0)
    alphabet = [f"w{n}" for n in range(40)]
    entries = [" ".join(rng.choices(alphabet, k=rng.randint(1, 5))) for _ in range(900)]
    entries = [entry for entry in entries if " " in entry]
    texts = [" ".join(rng.choices(alphabet, k=200)) for _ in range(12)]
    expected = [greedy(text.split(), {tuple(entry.split()) for entry in entries}) for text in texts]
    assert count(texts, hashed(entries)) == expected
    assert sum(matches for matches, _ in expected) > 100


def test_the_longest_wins_and_phrases_do_not_overlap():
    phrases = hashed(["a b c", "a b", "b c d", "d d"])
    assert count(["a b c d d", "a b d", "b c d d d", "a", "", "A, b! C"], phrases) == [
        (2, 5), (1, 2), (2, 5), (0, 0), (0, 0), (1, 3)
    ]  # fmt: skip


def test_no_phrases_and_the_empty_phrase():
    assert count(["a b", ""], []) == [(0, 0), (0, 0)]
    assert count(["a b", ""], [()]) == [(0, 0), (0, 0)]


def test_words_of_the_neighbouring_document_do_not_match():
    assert count(["bad", "word bad", "word"], hashed(["bad word"])) == [(0, 0), (0, 0), (0, 0)]


def test_only_the_named_documents_are_counted():
    found, covered = np.zeros((2, 3), np.int64)
    batch = word_hashes(pa.array(["bad", "bad", "bad bad"], pa.large_string()))
    count_phrases(*batch, np.array([2]), compile_phrases(hashed(["bad"])), found, covered)
    assert found.tolist() == covered.tolist() == [0, 0, 2]


def symbols_in(text: bytes, symbols: list[bytes]) -> int:
    matches = at = 0
    while at < len(text):
        longest = max((len(s) for s in symbols if s and text.startswith(s, at)), default=0)
        matches, at = matches + bool(longest), at + (longest or 1)
    return matches


BYTES = st.lists(st.sampled_from([b"\xf0", b"\x9f", b"\x96", b"\x95", b"a", b"\0", b"\xff"]), max_size=12).map(b"".join)


@given(st.lists(BYTES, max_size=5), st.lists(BYTES, max_size=5))
@example([b"\xf0\x9f", b"\x96\x95", b"\xf0"], [b"\xf0\x9f\x96\x95", b"\xf0a"])
def test_symbols_as_in_plain_python_and_never_beyond_the_document(texts, symbols):
    data = np.frombuffer(b"".join(texts), np.uint8)
    bounds = np.cumsum([0, *map(len, texts)]).astype(np.int64)
    starts, ends, tables = bounds[:-1], bounds[1:], compile_symbols(symbols)
    found = np.zeros(len(texts), np.int64)
    count_symbols(data, starts, ends, np.arange(len(texts)), tables, found)
    assert found.tolist() == [symbols_in(text, symbols) for text in texts]


@pytest.mark.parametrize("text", ["", "🖕", "a🖕🏽b🖕", "\U0001f594"])
def test_an_emoji_is_found(text):
    found = np.zeros(1, np.int64)
    view = utf8_view(pa.array([text], pa.large_string()))
    count_symbols(*view, np.arange(1), compile_symbols(["🖕".encode()]), found)
    assert found.tolist() == [text.count("🖕")]
