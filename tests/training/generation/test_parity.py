"""Greedy text and beams are those of transformers' `generate`, token for token."""

from __future__ import annotations

from typing import Any

import pytest

from tests.training.generation.peers import PROMPTS, pair, settings, written_by_theirs
from tests.training.small_models import one_thread

__all__ = ["one_thread"]

NAMES = {"repetition_penalty": "repetition_penalty", "no_repeat_ngram": "no_repeat_ngram_size", "beams": "num_beams"}
NAMES |= {"max_new_tokens": "max_new_tokens", "length_penalty": "length_penalty", "early_stopping": "early_stopping"}
GREEDY: list[dict[str, Any]] = [
    {},
    {"repetition_penalty": 1.7},
    {"repetition_penalty": 0.6, "no_repeat_ngram": 3},
    {"no_repeat_ngram": 1},
]
BEAMS: list[dict[str, Any]] = [
    {"beams": 2},
    {"beams": 4, "length_penalty": 2.0},
    {"beams": 4, "length_penalty": -1.0, "early_stopping": "never"},
    {"beams": 3, "early_stopping": True},
    {"beams": 5, "early_stopping": "never", "length_penalty": 0.7},
    {"beams": 3, "no_repeat_ngram": 2, "repetition_penalty": 1.3},
    {"beams": 4, "max_new_tokens": 3},
]


@pytest.mark.parametrize("fields", GREEDY)
@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3", "t5"])
def test_greedy_text(family: str, fields: dict[str, Any]) -> None:
    ours, theirs = pair(family)
    options = {NAMES[name]: value for name, value in fields.items()}
    expected = [written_by_theirs(ours, theirs, prompt, **options)[0][0] for prompt in PROMPTS]
    assert [found[0].ids for found in ours.batch(PROMPTS, settings(**fields))] == expected
    assert [list(ours.token_ids(prompt, settings(**fields))) for prompt in PROMPTS] == expected
    lengths = {len(ids) for ids in expected}
    assert "no_repeat_ngram" in fields or len(lengths) > 1  # some have ended, others not


@pytest.mark.parametrize("fields", BEAMS)
@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3", "t5"])
def test_beams(family: str, fields: dict[str, Any]) -> None:
    ours, theirs = pair(family)
    found = ours.batch(PROMPTS, settings(**fields))
    options = {NAMES[name]: value for name, value in fields.items()}
    for prompt, hypotheses in zip(PROMPTS, found, strict=True):
        ids, scores = written_by_theirs(ours, theirs, prompt, num_return_sequences=fields["beams"], **options)
        count = len(hypotheses)
        assert [one.ids for one in hypotheses] == ids[:count]
        assert [one.score for one in hypotheses] == pytest.approx(scores[:count], rel=1e-4, abs=1e-4)
        assert all(score < -1e8 for score in scores[count:])  # what had not ended when the search did
        assert count
        assert list(ours.token_ids(prompt, settings(**fields))) == ids[0]


def test_some_beams_end_and_others_do_not() -> None:
    ours, _ = pair("llama")
    finished = [one.finished for found in ours.batch(PROMPTS, settings(beams=4)) for one in found]
    assert set(finished) == {True, False} or all(finished)
    short = [one.finished for found in ours.batch(PROMPTS, settings(beams=4, max_new_tokens=3)) for one in found]
    assert not all(short)
