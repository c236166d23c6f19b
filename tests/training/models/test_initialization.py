from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from training.config import ModelConfig
from training.models.transformer import Transformer

CONFIG = ModelConfig(
    layers=2, heads=8, kv_heads=2, width=256, context_length=200, mlp="swiglu", positions="learned", mup_base_width=64
)
VOCABULARY = 500


def variances(config: ModelConfig) -> dict[str, float]:
    """Variance of each matrix of the model, those that are stacked by themselves."""
    torch.manual_seed(0)
    model = Transformer(config, VOCABULARY).requires_grad_(False)
    block: Any = model.blocks[1]
    q, k, v = block.attention.qkv.weight.split([256, 64, 64])
    gate, value = block.mlp.input.weight.chunk(2)
    assert model.position_embedding is not None
    matrices = {
        "embedding": model.embedding.weight,
        "position": model.position_embedding.weight,
        "query": q,
        "key": k,
        "value": v,
        "attention output": block.attention.output.weight,
        "gate": gate,
        "up": value,
        "mlp output": block.mlp.output.weight,
        "head": model.head.weight,
    }
    return {name: float(weight.var(correction=0)) for name, weight in matrices.items()}


D, F = 256, CONFIG.hidden_width
EXPECTED = {
    "small": [0.49, 0.01, 1 / D, 1 / D, 1 / D, 0, 1 / D, 1 / D, 0, 0.01 / D],
    # The outputs of 2 layers: divided by the root of 4.
    "gpt2": [4e-4, 4e-4, 4e-4, 4e-4, 4e-4, 1e-4, 4e-4, 4e-4, 1e-4, 4e-4],
    "xavier": [
        *(2 / (VOCABULARY + D), 2 / (200 + D), 2 / (D + D), 2 / (D + 64), 2 / (D + 64)),
        *(2 / (D + D), 2 / (D + F), 2 / (D + F), 2 / (D + F), 2 / (D + VOCABULARY)),
    ],
    "he": [2 / D] * 8 + [2 / F, 2 / D],
    "mup": [0.49, 0.01, 1 / D, 1 / D, 1 / D, 1 / D, 1 / D, 1 / D, 1 / F, 1 / 64],
}


@pytest.mark.parametrize("scheme", EXPECTED)
def test_variances_are_those_of_the_scheme(scheme: Any) -> None:
    measured = variances(replace(CONFIG, initialization=scheme))
    assert list(measured.values()) == pytest.approx(EXPECTED[scheme], rel=0.06)


@pytest.mark.parametrize(("scheme", "function"), [("xavier", nn.init.xavier_normal_), ("he", nn.init.kaiming_normal_)])
def test_glorot_and_he_are_those_of_torch(scheme: Any, function: Any) -> None:
    measured = variances(replace(CONFIG, initialization=scheme))
    torch.manual_seed(1)
    for name, shape in (("query", (D, D)), ("key", (64, D)), ("up", (F, D)), ("mlp output", (D, F))):
        assert measured[name] == pytest.approx(float(function(torch.empty(shape)).var()), rel=0.06)


def test_biases_are_zero_and_gains_one() -> None:
    model = Transformer(replace(CONFIG, norm="layernorm", bias="all", qk_norm="gains", bigram_buckets=9), 50)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7)
    model.reset_parameters()
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 or "bigrams" in name:
            assert (parameter == float("norm" in name and not name.endswith("bias"))).all(), name


@pytest.mark.parametrize("tied", [False, True])
def test_small_begins_with_nearly_uniform_predictions(tied: bool) -> None:
    torch.manual_seed(0)
    model = Transformer(replace(CONFIG, tied_embeddings=tied, positions="rotary"), VOCABULARY)
    log_normalizers = torch.logsumexp(model(torch.randint(0, VOCABULARY, (2, 24))), -1)
    assert float(log_normalizers.detach().mean()) == pytest.approx(math.log(VOCABULARY), abs=0.05)
