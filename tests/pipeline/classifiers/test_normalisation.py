"""The line that a classifier reads, against a statement of the same rule in plain Python, and fuzzed with bytes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.classifiers.normalisation import NORMALISATION_VERSION, Normalisation, normalise, side_file
from pipeline.text.arrow import large_strings
from pipeline.text.tables import CLASS_MASK, CLASS_SHIFT, IGNORABLE, MARK, TABLE, UNSPACED


def expected(text: str, limit: int | None, separate: bool) -> str:
    data = text.encode()
    if limit is not None:
        data = data[:limit]
    text = data.decode(errors="ignore")  # a cut character goes
    text = "".join(" " if char <= " " or char == "\x7f" else char for char in text)
    if separate:
        out, unspaced = "", False
        for char in text:
            kind = int(TABLE[ord(char)]) >> CLASS_SHIFT & CLASS_MASK
            extends = unspaced and kind in (MARK, IGNORABLE)
            letter = kind == UNSPACED
            out += " " + char if letter or (unspaced and not extends) else char
            unspaced = letter or extends
        text = out
    return " ".join(part for part in text.split(" ") if part)


TEXTS = st.text(
    st.sampled_from("ab \n\t\x00\x7f\u3000，。我爱你é\u0301\u200dกิあ゙ア한글\U00020000\U0001f600'") | st.characters(),
    max_size=40,
)


@given(st.lists(TEXTS, max_size=4), st.none() | st.integers(1, 60), st.booleans())
@example(["我爱Python吗？是 的"], None, True)
@example(["กิน ข้าว"], None, True)
def test_it_is_the_stated_rule(texts: list[str], limit: int | None, separate: bool):
    texts = [text.encode("utf-8", "ignore").decode() for text in texts]
    found = normalise(pa.array(texts, pa.large_string()), limit, separate)
    found.validate(full=True)
    assert found.to_pylist() == [expected(text, limit, separate) for text in texts]


def test_what_it_gives():
    texts = pa.array(["我爱 Python吗？\n是的", " a\r\n b\x00c ", "", None, "กิน"])
    assert normalise(texts, None, True).to_pylist() == ["我 爱 Python 吗 ？ 是 的", "a b c", "", "", "กิ น"]
    assert normalise(texts, None, False).to_pylist() == ["我爱 Python吗？ 是的", "a b c", "", "", "กิน"]
    assert normalise(texts, 6, True).to_pylist() == ["我 爱", "a b", "", "", "กิ"]
    assert normalise(texts, 5, True).to_pylist() == ["我", "a", "", "", "ก"]


@given(st.binary(max_size=60), st.integers(0, 20), st.integers(0, 20), st.none() | st.integers(1, 30), st.booleans())
def test_bytes_outside_of_a_document_do_not_matter(
    data: bytes, before: int, after: int, limit: int | None, separate: bool
):
    def lines(filler: int) -> bytes:
        whole = bytes([filler]) * before + data + bytes([filler]) * after
        offsets = np.array([before, before + len(data)], np.int64)
        texts = large_strings(offsets, np.frombuffer(whole, np.uint8))
        return normalise(texts, limit, separate).cast(pa.large_binary())[0].as_py()

    found = lines(0xE4)
    assert found == lines(0x80) == lines(0x00)
    assert (
        bytes(byte for byte in found if byte > 0x20)
        == bytes(byte for byte in data[:limit][: len(data)] if byte > 0x20 and byte != 0x7F)[
            : len([byte for byte in found if byte > 0x20])
        ]
    )


def test_cuts_and_chunks_do_not_matter():
    texts = ["我 爱你", "plain text", "", "ไทย", "x" * 5000]
    whole = pa.array(texts, pa.string())
    chunked = pa.chunked_array([whole[:2], whole[2:2], whole[2:]])
    assert normalise(chunked, 100, True).equals(normalise(whole, 100, True))
    assert normalise(whole[1:4], 100, True).to_pylist() == normalise(whole, 100, True).to_pylist()[1:4]
    assert len(normalise(pa.chunked_array([], pa.string()), None, True)) == 0


@pytest.mark.parametrize("word", ["x", "爱", "\u0e01\u0e34"])
def test_a_word_of_fifty_megabytes(word: str):
    text = word * (50_000_000 // len(word.encode()))
    (line,) = normalise(pa.array([text], pa.large_string()), None, True).to_pylist()
    letters = 1 if word == "x" else len(text) // len(word)
    assert line.count(" ") == letters - 1
    assert line.replace(" ", "") == text


def test_the_file_beside_a_model(tmp_path: Path):
    model = tmp_path / "quality.bin"
    assert Normalisation.beside(model) is None
    used = Normalisation(2048, True)
    side_file(model).write_text(json.dumps({"normalisation": used.identity()}))
    assert Normalisation.beside(model) == used
    side_file(model).write_text(
        json.dumps({"normalisation": {**used.identity(), "version": NORMALISATION_VERSION + 1}})
    )
    with pytest.raises(ValueError, match="train the classifier again"):
        Normalisation.beside(model)
    for damaged in ("{", "[]", "{}", '{"normalisation": {}}', "null"):
        side_file(model).write_text(damaged)
        with pytest.raises(ValueError, match=r"quality.bin.json does not describe a classifier"):
            Normalisation.beside(model)
