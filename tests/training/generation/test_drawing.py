"""What may be drawn, and with which probability, is what transformers' processors leave."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from tests.training.small_models import one_thread
from training.config.generation import GenerationConfig
from training.generation.drawing import adjusted, choose, dense, repeating

__all__ = ["one_thread"]

LIMITS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.7},
    {"top_k": 7},
    {"top_k": 100_000},
    {"top_p": 0.6},
    {"top_p": 0.0},
    {"min_p": 0.2},
    {"min_p": 1.0},
    {"typical_p": 0.5},
    {"typical_p": 0.05, "temperature": 1.5},
    {"temperature": 1.3, "top_k": 30, "top_p": 0.9, "min_p": 0.02, "typical_p": 0.8},
    {"repetition_penalty": 1.4, "no_repeat_ngram": 2, "top_k": 20, "temperature": 0.9},
]


def processors(fields: dict[str, Any]) -> LogitsProcessorList:
    """In the order of `GenerationMixin._get_logits_processor`."""
    made = {
        "repetition_penalty": RepetitionPenaltyLogitsProcessor,
        "no_repeat_ngram": NoRepeatNGramLogitsProcessor,
        "temperature": TemperatureLogitsWarper,
        "top_k": TopKLogitsWarper,
        "top_p": TopPLogitsWarper,
        "min_p": MinPLogitsWarper,
        "typical_p": TypicalLogitsWarper,
    }
    return LogitsProcessorList([kind(fields[name]) for name, kind in made.items() if name in fields])


@pytest.mark.parametrize("fields", LIMITS)
def test_the_distribution_is_that_of_transformers(fields: dict[str, Any]) -> None:
    settings = GenerationConfig(**{"temperature": 1.0, "top_k": 0, **fields})
    ids = [[3, 5, 3, 9, 3], [1, 1, 2, 7, 1]]
    for seed in range(8):
        logits = 3 * torch.randn(2, 200, generator=torch.Generator().manual_seed(seed))
        expected = torch.softmax(processors(fields)(torch.tensor(ids), logits.clone()).double(), dim=-1)
        found = torch.stack([dense(row, settings) for row in adjusted(logits, ids, settings)])
        assert ((found > 0) == (expected > 0)).all()
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-9)


def test_what_ties_with_the_last_of_the_likeliest_stays_as_in_transformers() -> None:
    logits = torch.tensor([1.0, 2.0, 1.0, 3.0, 1.0, 0.0])
    kept = dense(logits, GenerationConfig(temperature=1.0, top_k=3)) > 0
    assert kept.tolist() == [True, True, True, True, True, False]
    assert torch.equal(kept, TopKLogitsWarper(3)(None, logits[None])[0] > float("-inf"))


@pytest.mark.parametrize("fields", [{"top_k": 5, "temperature": 1.5}, {"typical_p": 0.7, "top_k": 0}])
def test_draws_have_the_frequencies_of_the_distribution(fields: dict[str, Any]) -> None:
    settings = GenerationConfig(**{"temperature": 1.0, **fields})
    logits = 2 * torch.randn(40, generator=torch.Generator().manual_seed(5))
    random = torch.Generator().manual_seed(11)
    counts = Counter(choose(logits, settings, random) for _ in range(8000))
    found = np.array([counts[token] / 8000 for token in range(40)])
    np.testing.assert_allclose(found, dense(logits, settings).numpy(), atol=0.02)


def test_a_temperature_near_zero_is_greedy() -> None:
    logits = 3 * torch.randn(40, generator=torch.Generator().manual_seed(5))
    for temperature in (1e-3, 1e-30, 1e-320):
        settings = GenerationConfig(temperature=temperature, top_k=0, top_p=0.9, min_p=0.1, typical_p=0.9)
        assert choose(logits, settings, torch.Generator().manual_seed(1)) == int(logits.argmax())


def test_where_no_token_may_come_that_is_said() -> None:
    for temperature in (0.0, 1.0):
        with pytest.raises(ValueError, match="no token may come next"):
            choose(torch.full((5,), float("-inf")), GenerationConfig(temperature=temperature), torch.Generator())


def test_repeating_ngrams_by_brute_force() -> None:
    random = np.random.default_rng(0)
    for n in (1, 2, 3, 4):
        for length in (0, 1, 2, 3, 12, 30):
            ids = random.integers(0, 3, length).tolist()
            grams = {tuple(ids[i : i + n]) for i in range(length - n + 1)}
            expected = {t for t in range(3) if length >= n - 1 and tuple([*ids, t][length + 1 - n :]) in grams}
            assert set(repeating(ids, n)) == expected, (n, ids)


@pytest.mark.parametrize(
    "wrong",
    [
        {"beams": 0},
        {"beams": 4, "beam_groups": 3},
        {"diversity_penalty": 1.0},
        {"early_stopping": "always"},
        {"typical_p": 0.0},
        {"min_p": 1.1},
        {"repetition_penalty": 0.0},
        {"stop": ("",)},
        {"draft_tokens": 0},
    ],
)
def test_wrong_settings_name_the_field(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(reversed(wrong)) if "beams" not in wrong else "beam"):
        GenerationConfig(**wrong)
