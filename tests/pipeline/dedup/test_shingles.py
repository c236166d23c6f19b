from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dedup.shingles import shingle_hashes
from pipeline.text.scan import word_hashes
from tests.pipeline.dedup.corpora import compiling

WORD = st.sampled_from(["a", "b", "c", "dd"])
TEXTS = st.lists(st.lists(WORD, max_size=12), max_size=8)


def hashed(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    return word_hashes(pa.array(texts, pa.large_string()))


@compiling
@given(TEXTS, st.integers(1, 6))
def test_equal_hashes_are_equal_shingles_in_text_order(texts: list[list[str]], length: int):
    offsets, hashes = shingle_hashes(*hashed([" ".join(text) for text in texts]), length)
    expected = []
    for text in texts:
        shingles = [tuple(text[start : start + length]) for start in range(max(1, len(text) - length + 1))]
        expected.append(shingles if text else [])
    assert np.diff(offsets).tolist() == [len(shingles) for shingles in expected]
    pairs = set(zip([shingle for shingles in expected for shingle in shingles], hashes.tolist(), strict=True))
    assert len(pairs) == len({shingle for shingle, _ in pairs}) == len({value for _, value in pairs})


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 6, 7, 8, 13, 31, 32, 63, 64])
def test_a_hash_is_that_of_the_polynomial_of_its_words(length: int):
    random = np.random.default_rng(length)
    sizes = [0, 1, length - 1, length, length + 1, 2 * length, 3 * length + 1, 100]
    words = random.integers(0, 2**64, sum(sizes), dtype=np.uint64)
    offsets, hashes = shingle_hashes(np.cumsum([0, *sizes]), words, length)
    expected: list[int] = []
    for text in np.split(words, np.cumsum(sizes)[:-1]):
        for start in range(max(len(text) - length + 1, min(len(text), 1))):
            state = 0
            for word in text[start : start + length].tolist():
                state = (state * 0x9FB21C651E98DF25 + word) % 2**64
            expected.append((state ^ state >> 32) * 0xD6E8FEB86659FD93 % 2**64 >> 32)
    assert hashes.tolist() == expected
    assert offsets[-1] == len(expected)


def test_unspaced_scripts_are_shingled_by_character():
    offsets, hashes = shingle_hashes(*hashed(["我爱北京天安门", "爱北京天安门广场"]), 5)
    assert np.diff(offsets).tolist() == [3, 4]
    assert hashes[1:3].tolist() == hashes[3:5].tolist()
