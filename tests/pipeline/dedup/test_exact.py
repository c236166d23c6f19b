from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from pipeline.dedup.exact import content_digests
from pipeline.text.scan import word_hashes


def digests(texts: list[str]) -> list[bytes]:
    array = pa.array(texts, pa.large_string())
    return [digest.tobytes() for digest in content_digests(array, *word_hashes(array))]


@pytest.mark.parametrize(
    "texts",
    [
        ["One two, three.", "one TWO three", "  one\n\ttwo three!"],
        ["", " \n", "\t"],
        ["!?", "! ?"],
        ["Ça va: ÉTÉ", "ça va été"],
    ],
)
def test_the_same_words_have_one_digest(texts: list[str]):
    assert len(set(digests(texts))) == 1


def test_other_words_have_other_digests():
    texts = ["one two three", "two one three", "one two", "one twothree", "onetwo three", "one two three three"]
    texts += ["", "!", "?", "!!", "one", "🙂", "🙃", "。", "、"]
    assert len(set(digests(texts))) == len(texts)


def test_digests_of_many_short_documents_differ():
    array = pa.array([f"a{left} b{right}" for left in range(300) for right in range(300)], pa.large_string())
    found = content_digests(array, *word_hashes(array))
    assert len(np.unique(found[:, 0])) == len(np.unique(found[:, 1])) == len(array)


def test_a_slice_is_read_where_it_lies():
    texts = pa.array(["one two", "?", "three", "!"], pa.large_string())
    whole = content_digests(texts, *word_hashes(texts))
    part = texts[1:3]
    np.testing.assert_array_equal(content_digests(part, *word_hashes(part)), whole[1:3])
