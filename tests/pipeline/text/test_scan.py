from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings

from pipeline.text.arrow import utf8_view
from pipeline.text.scan import _word_hashes, word_hashes
from pipeline.text.tables import TABLE
from tests.pipeline.text import reference
from tests.pipeline.text.strategies import arrays, texts


def hashes(text: str) -> list[int]:
    offsets, found = word_hashes(pa.array([text], pa.large_string()))
    assert offsets.tolist() == [0, len(found)]
    return found.tolist()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't stop-me NOW", ["don't", "stop", "me", "now"]),
        ("rock ’n’ roll, the ’90s, James’ car", ["rock", "n", "roll", "the", "90s", "james", "car"]),
        ("世界 2024年ABC", ["世", "界", "2024", "年", "abc"]),
        ("カー にゃ", ["カ", "ー", "に", "ゃ"]),
        ("한국어 문장", ["한국어", "문장"]),
        ("ก็ได้", ["ก็", "ไ", "ด้"]),
        ("co\u00adop\u200berate", ["coop", "erate"]),
        ("می\u200cخواهم", ["میخواهم"]),
        ("👩\u200d🚀 e\u0301tait \u0301", ["e\u0301tait"]),
        ("snake_case a.b 3.14", ["snake", "case", "a", "b", "3", "14"]),
        ("ΣΟΦΌΣ Straße", ["σοφόσ", "straße"]),
        ("", []),
        (" \n\t\x00", []),
    ],
)
def test_words(text: str, words: list[str]):
    assert reference.words(text) == words
    assert hashes(text) == [reference.word_hash(word) for word in words]


@given(texts)
@settings(max_examples=200, deadline=None)
def test_words_are_those_of_the_plain_statement(text: str):
    assert hashes(text) == [reference.word_hash(word) for word in reference.words(text)]


LONG = ("’", "é", "\u00ad", "“", "世", "、", "😀", "\n" * 20, "_" * 64, "k" * 130, "".join(map(chr, range(128))))
SHORT = ("'", "''", " ", " ", " ", ", ", "Az09", *("k" * length for length in (1, 2, 7, 8, 9, 15, 16, 17, 24, 25)))
BORDER = tuple("k" * length for length in (61, 62, 63, 64, 65, 127, 128))


def test_long_texts_have_the_words_of_the_plain_statement():
    # Most of each is ASCII, which is scanned 64 bytes at a time.
    random = np.random.default_rng(11)
    pieces = np.array([*SHORT * 40, *BORDER * 4, *LONG * 2], object)
    texts = ["".join(random.choice(pieces, size)) for size in random.integers(0, 400, 300)]
    offsets, found = word_hashes(pa.array(texts, pa.large_string()))
    for text, start, end in zip(texts, offsets[:-1], offsets[1:], strict=True):
        assert found[start:end].tolist() == [reference.word_hash(word) for word in reference.words(text)]


@given(arrays())
@settings(deadline=None)
def test_any_array_gives_the_words_of_its_texts(array: pa.Array | pa.ChunkedArray):
    offsets, found = word_hashes(array)
    assert offsets.dtype == np.int64
    assert found.dtype == np.uint64
    assert len(offsets) == len(array) + 1
    pieces = [found[offsets[i] : offsets[i + 1]].tolist() for i in range(len(array))]
    assert pieces == [hashes(text or "") for text in array.to_pylist()]


def test_arrays_are_views_without_a_copy():
    array = pa.array(["no", "abc", None, "", "défi"], pa.large_string())[1:]
    view = utf8_view(array)
    assert [bytes(view.data[a:b]).decode() for a, b in zip(view.starts, view.ends, strict=True)] == [
        "abc",
        "",
        "",
        "défi",
    ]
    assert view.data.ctypes.data == array.buffers()[2].address
    assert not any(part.flags.writeable for part in view)


def test_nulls_that_have_bytes_are_empty():
    valid = pa.py_buffer(bytes([0b101]))
    offsets = pa.py_buffer(np.array([0, 1, 3, 4], np.int64))
    array = pa.Array.from_buffers(pa.large_string(), 3, [valid, offsets, pa.py_buffer(b"abbc")])
    assert array.to_pylist() == ["a", None, "c"]
    found, words = word_hashes(array)
    assert found.tolist() == [0, 1, 1, 2]
    assert words.tolist() == hashes("a c")


@pytest.mark.parametrize("array", [pa.array([1]), pa.array([b"a"]), pa.array(["a"]).dictionary_encode()])
def test_other_types_are_refused(array: pa.Array):
    with pytest.raises(TypeError, match="string or large_string"):
        word_hashes(array)


def test_a_word_of_5_megabytes():
    offsets, words = word_hashes(pa.array(["x" * 5_000_000, "x " * 2_500_000]))
    assert offsets.tolist() == [0, 1, 2_500_001]
    assert len(set(words[1:].tolist())) == 1


@pytest.mark.parametrize(
    "tail", [b"\xe4", b"\xe4\xb8", b"\xf0\x9f\x98", b"\xc3", b"\x80", b"\xff", b"\xf7\xbf\xbf\xbf", b"\xed\xa0\x80"]
)
@pytest.mark.parametrize("after", [b"\xb8\x96", b"zz", b""])
def test_broken_utf8_reads_nothing_behind_the_text(tail: bytes, after: bytes):
    array = pa.Array.from_buffers(
        pa.large_string(),
        1,
        [None, pa.py_buffer(np.array([0, 2 + len(tail)], np.int64)), pa.py_buffer(b"a " + tail + after)],
    )
    offsets, words = word_hashes(array)
    same = pa.Array.from_buffers(
        pa.large_string(), 1, [None, array.buffers()[1], pa.py_buffer(b"a " + tail + b"\x96\x96\x96")]
    )
    assert words.tolist() == word_hashes(same)[1].tolist()
    assert words[0] == hashes("a")[0]
    assert len(words) == offsets[1] <= 2


def test_any_bytes_stay_in_bounds():
    random = np.random.default_rng(7)
    for size in (0, 1, 2, 3, 50, 5000):
        data = random.integers(0, 256, size, np.uint8)
        array = pa.Array.from_buffers(
            pa.large_string(), 1, [None, pa.py_buffer(np.array([0, size], np.int64)), pa.py_buffer(data)]
        )
        offsets, words = word_hashes(array)
        assert len(words) == offsets[-1] <= (size + 1) // 2


def test_one_compiled_version_serves_all_arrays():
    word_hashes(pa.array(["a"], pa.string()))
    word_hashes(pa.array(["a", None], pa.large_string())[1:])
    word_hashes(pa.chunked_array([["a"], []], pa.string()))
    assert len(_word_hashes.signatures) == 1
    assert len(TABLE) == 0x110000
