from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.text.repetition import LARGEST, count_ngrams, count_repeats, make_workspace
from tests.pipeline.text import reference

VOCABULARY = ("a", "bb", "ccc", "dddd", "e")


@given(st.lists(st.sampled_from(VOCABULARY[:3]), max_size=150) | st.lists(st.sampled_from(VOCABULARY), max_size=400))
@settings(max_examples=200, deadline=None)
def test_ngrams(words: list[str]):
    hashes = np.array([VOCABULARY.index(word) for word in words], np.uint64)  # the key 0 is a key like another
    ends = np.cumsum([0, *map(len, words)])
    found = np.full(LARGEST + 1, 99, np.int64)
    count_ngrams(hashes, ends, len(words), 1, make_workspace(len(words) + 1), found)
    tops = [reference.top_ngram(words, n) for n in (2, 3, 4)]
    duplicates = [reference.duplicate_ngrams(words, n) for n in range(5, 11)]
    assert found.tolist() == [0, 0, *tops, *duplicates]


@given(st.lists(st.sampled_from(VOCABULARY), max_size=60))
@settings(deadline=None)
def test_repeats(items: list[str]):
    hashes = np.array([hash(item) & 0xFFFF for item in items], np.uint64)
    sizes = np.array([len(item) for item in items], np.int64)
    assert count_repeats(hashes, sizes, len(items), make_workspace(max(len(items), 1))) == reference.repeats(items)


def test_keys_that_share_a_slot_are_told_apart():
    # Multiples of 2**40 meet in few slots of the table.
    hashes = np.arange(2000, dtype=np.uint64) << np.uint64(40)
    sizes = np.ones(2000, np.int64)
    assert count_repeats(hashes, sizes, 2000, make_workspace(2000)) == (0, 0)
    assert count_repeats(np.concatenate([hashes, hashes]), np.ones(4000, np.int64), 4000, make_workspace(4000)) == (
        2000,
        2000,
    )


def test_a_long_cycle_counts_every_character_but_the_first_round():
    words = list(VOCABULARY) * 1000
    found = np.zeros(LARGEST + 1, np.int64)
    hashes = np.array([VOCABULARY.index(word) for word in words], np.uint64)
    ends = np.cumsum([0, *map(len, words)])
    count_ngrams(hashes, ends, len(words), 1, make_workspace(len(words) + 1), found)
    total = int(ends[-1])
    assert total - found[10] < 3 * 11
    assert found[10] == reference.duplicate_ngrams(words, 10)
