from __future__ import annotations

import sys
import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.tokens.encoding import (
    Encoded,
    EncodingMismatch,
    GigatokenEncoder,
    ReferenceEncoder,
    check_encoding,
    load_encoder,
)
from pipeline.tokens.tokenizer import PATTERNS, SPECIAL_TOKENS, train_tokenizer
from tests.pipeline.tokens.corpus import make_documents

# Text of any script, and text made of what the expressions look at. Without unassigned code points: gigatoken knows the
# letters of Unicode 17 and tokenizers does not yet.
TEXT = st.one_of(
    st.text(st.characters(exclude_categories=("Cs", "Cn")), max_size=60),
    st.text(st.sampled_from("aZéß语हि๐٣5 \t\n\r\u00a0\u3000'’.,/!<|>_\u0301\u200d🙂"), max_size=60),
    st.lists(st.sampled_from(["'ll", "'RE", " don't", "12345", "\r\n\r\n", *SPECIAL_TOKENS, " "]), max_size=12).map(
        "".join
    ),
)


@pytest.fixture(scope="module")
def encoders() -> dict[str, tuple[GigatokenEncoder, ReferenceEncoder]]:
    texts = [document["text"] for document in make_documents(200)]
    trained = {name: train_tokenizer(texts, 700, name)[0] for name in PATTERNS}  # type: ignore[arg-type]
    return {name: (GigatokenEncoder(data), ReferenceEncoder(data)) for name, data in trained.items()}


def same(one: Encoded, other: Encoded) -> bool:
    return np.array_equal(one.ids, other.ids) and np.array_equal(one.offsets, other.offsets)


@pytest.mark.parametrize("pattern", list(PATTERNS))
@settings(max_examples=150, deadline=None)
@given(texts=st.lists(TEXT, max_size=6))
def test_gigatoken_gives_the_ids_of_tokenizers(encoders: dict, pattern: str, texts: list[str]) -> None:
    fast, reference = encoders[pattern]
    batch = pa.array(texts, pa.large_string())
    assert same(fast.encode(batch), reference.encode(batch))


@pytest.mark.parametrize("pattern", list(PATTERNS))
def test_every_code_point_is_encoded_alike(encoders: dict, pattern: str) -> None:
    fast, reference = encoders[pattern]
    if int(unicodedata.unidata_version.split(".")[0]) > 16:
        pytest.skip("this Python knows letters that tokenizers does not know yet")
    points = [chr(c) for c in range(0x30000) if unicodedata.category(chr(c)) not in ("Cs", "Cn")]
    step = 1 if pattern == "o200k" else 16  # the default in full
    texts = [f"a{point} {point}1{point}\n" for point in points[::step]]
    batch = pa.array(["".join(texts[i : i + 64]) for i in range(0, len(texts), 64)], pa.large_string())
    assert same(fast.encode(batch), reference.encode(batch))


@pytest.mark.parametrize("pattern", list(PATTERNS))
def test_the_text_of_a_special_token_stays_text(encoders: dict, pattern: str) -> None:
    for encoder in encoders[pattern]:
        encoded = encoder.encode(pa.array(["<|endoftext|>", "a<|mask|><|pad|> <|cls|>\n<|sep|>"]))
        assert encoded.ids.min() >= len(SPECIAL_TOKENS)
        assert len(encoded.ids) > 10


def test_slices_nulls_and_both_string_types(encoders: dict) -> None:
    fast, reference = encoders["o200k"]
    for kind in (pa.string(), pa.large_string()):
        texts = pa.array(["not this", "one two", None, "", "语言 three", "nor this"], kind).slice(1, 4)
        encoded = fast.encode(texts)
        assert same(encoded, reference.encode(texts))
        assert np.diff(encoded.offsets)[1:3].tolist() == [0, 0]
        assert same(encoded, fast.encode(pa.array(["one two", "", "", "语言 three"], kind)))
    empty = fast.encode(pa.array([], pa.large_string()))
    assert (len(empty.ids), empty.offsets.tolist()) == (0, [0])


def test_take_gives_the_documents_at_some_positions(encoders: dict) -> None:
    fast, _ = encoders["o200k"]
    texts = ["a b", "", "c d e", "f"]
    taken = fast.encode(pa.array(texts)).take(np.array([3, 1, 0]))
    assert same(taken, fast.encode(pa.array(["f", "", "a b"])))


def test_a_difference_names_the_document_and_the_token() -> None:
    one = Encoded(np.array([5, 6, 7, 8], np.uint32), np.array([0, 2, 4]))
    other = Encoded(np.array([5, 6, 7, 9], np.uint32), np.array([0, 2, 4]))
    shorter = Encoded(np.array([5, 6, 7], np.uint32), np.array([0, 2, 3]))
    check_encoding(one, one, ["x", "y"])
    for wrong in (other, shorter):
        with pytest.raises(EncodingMismatch, match=r"document y differently from token 1 on: \[8\]"):
            check_encoding(one, wrong, ["x", "y"])


def test_without_gigatoken_tokenizers_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    data, _ = train_tokenizer(["some text, some more text"], 270, "o200k")
    assert load_encoder(data).encoder.name == "gigatoken"
    load_encoder.cache_clear()
    monkeypatch.setitem(sys.modules, "gigatoken", None)  # makes the import fail
    loaded = load_encoder(data)
    load_encoder.cache_clear()
    assert loaded.encoder.name == "tokenizers"
    assert "ModuleNotFoundError" in (loaded.fallback_reason or "")


def test_tokenizers_by_choice_is_no_fallback() -> None:
    data, _ = train_tokenizer(["some text, some more text"], 270, "o200k")
    loaded = load_encoder(data, "tokenizers")
    assert (loaded.encoder.name, loaded.fallback_reason) == ("tokenizers", None)
