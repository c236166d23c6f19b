"""Constrained decoding: whatever the model wants, the text is of its grammar."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from tests.training.small_models import one_thread, tiny_model, tiny_tokenizer
from training.config.generation import GenerationConfig
from training.generation import Generator
from training.generation.constraints import Grammar, Grammars

__all__ = ["one_thread"]

TOKENIZER = tiny_tokenizer()
VOCABULARY = TOKENIZER.get_vocab_size()
GRAMMARS = Grammars(TOKENIZER, VOCABULARY + 7, 0)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["a", "中国", None]}, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def generator() -> Generator:
    return Generator(tiny_model(VOCABULARY + 7, context_length=128), TOKENIZER, 0)


@pytest.mark.parametrize("pattern", [r"(yes|no|大学)!?", r"[a-f]{3}-\d{2,4}", r"(ab)+c"])
def test_a_token_is_allowed_where_a_match_can_go_on_with_it(pattern: str) -> None:
    """Against the whole vocabulary by brute force: is there a text of the grammar that begins so?"""
    begun = {r"(yes|no|大学)!?": "", r"[a-f]{3}-\d{2,4}": "ab", r"(ab)+c": "aba"}[pattern]
    ends = {
        r"(yes|no|大学)!?": ["yes", "no", "大学", "yes!", "no!", "大学!"],
        r"[a-f]{3}-\d{2,4}": [f"ab{x}-{n}" for x in "abcdef" for n in [*range(10, 100), *range(1000, 10000)]],
        r"(ab)+c": ["ab" * n + "c" for n in range(2, 9)],
    }[pattern]
    assert all(re.fullmatch(pattern, end) for end in ends)
    constraint = GRAMMARS.constraint(Grammar.regex(pattern))
    for token in TOKENIZER.encode(begun).ids:
        constraint.advance(token)
    starts = {end.encode()[: len(begun.encode()) + size] for end in ends for size in range(1, 9)}
    pieces = byte_pieces()
    expected = [number for number, piece in pieces.items() if piece and begun.encode() + piece in starts]
    assert np.flatnonzero(constraint.allowed()).tolist() == sorted(expected)


def byte_pieces() -> dict[int, bytes]:
    """The bytes of each token but the special one, from the alphabet of byte-level BPE (GPT-2's encoder.py)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    of = {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(others)}
    return {number: bytes(of[c] for c in token) for token, number in TOKENIZER.get_vocab().items() if number}


@pytest.mark.parametrize("seed", range(6))
def test_any_model_writes_what_the_schema_allows(generator: Generator, seed: int) -> None:
    constraint = GRAMMARS.constraint(Grammar.json_schema(SCHEMA))
    settings = GenerationConfig(max_new_tokens=110, temperature=1.5, top_k=0, seed=seed)
    text = generator.generate("The", settings, constraint)
    assert constraint.finished
    value = json.loads(text)
    jsonschema.validate(value, SCHEMA)
    assert text == json.dumps(value, ensure_ascii=False) or "\\" in text


@given(
    st.integers(0, 1000),
    st.sampled_from([r"[0-9]{1,3}(\.[0-9]{2})?", r"(cat|dog)( (cat|dog)){0,3}", r"[一-龥]{1,4}。"]),
)
def test_any_model_writes_what_the_expression_matches(generator: Generator, seed: int, pattern: str) -> None:
    settings = GenerationConfig(max_new_tokens=40, temperature=1.2, top_k=0, seed=seed)
    text = generator.generate("", settings, GRAMMARS.constraint(Grammar.regex(pattern)))
    assert re.fullmatch(pattern, text)


def test_the_end_of_the_text_is_allowed_where_the_text_is_whole() -> None:
    constraint = GRAMMARS.constraint(Grammar.regex("a+"))
    a = TOKENIZER.token_to_id("a")
    assert constraint.allowed().shape == (VOCABULARY + 7,)
    assert not constraint.allowed()[0]
    constraint.advance(a)
    assert constraint.allowed()[[0, a]].all()
    assert not constraint.finished
    constraint.advance(0)
    with pytest.raises(ValueError, match="cannot go on in its grammar"):
        constraint.advance(TOKENIZER.token_to_id("b"))


def test_mistakes_are_named() -> None:
    for grammar, message in (
        (Grammar.regex("(a"), "regex: unclosed group"),
        (Grammar.regex("(?=a)b"), "regex: look-around"),
        (Grammar.regex("a" * 70_000), "regex: 70,000 characters"),
        (Grammar.json_schema("{"), "json_schema: not valid JSON"),
        (Grammar.json_schema("[]"), "json_schema: expected a JSON object"),
        (Grammar.json_schema({"type": "foo"}), "json_schema: Invalid type: foo"),
        (Grammar.json_schema({"$ref": "http://127.0.0.1:9/x"}), "json_schema: .*does not fetch"),
    ):
        with pytest.raises(ValueError, match=message):
            GRAMMARS.constraint(grammar)
    words = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    with pytest.raises(ValueError, match="needs a tokenizer of bytes"):
        Grammars(words, 2, 0).constraint(Grammar.regex("a"))
