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


def activations_after_training(width: int, scheme: Any) -> dict[str, float]:
    """RMS of a block's output and deviation of the logits after some steps of Adam, as μP prescribes them."""
    config = ModelConfig(
        layers=2, heads=width // 16, width=width, context_length=16, initialization=scheme, mup_base_width=32
    )
    torch.manual_seed(0)
    model = Transformer(config, 40)
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2]
    rate = 0.01
    groups: list[dict[str, Any]] = [{"params": [model.embedding.weight, model.head.weight], "lr": rate}]
    groups += [{"params": [p], "lr": rate * (32 / width if scheme == "mup" else 1)} for p in matrices]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.95))
    ids = torch.randint(0, 40, (8, 16), generator=torch.Generator().manual_seed(1))
    for _ in range(6):
        loss = nn.functional.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        outputs: list[torch.Tensor] = []
        model.blocks[1].mlp.register_forward_hook(lambda _module, _input, output: outputs.append(output))
        logits = model(ids)
        return {"block": float(outputs[0].square().mean().sqrt()), "logits": float(logits.std())}


def test_activations_of_mup_keep_their_size_as_the_model_widens() -> None:
    """The coordinate check of Yang et al. 2022, appendix D.1; without μP the same rates blow the blocks up."""
    narrow, wide = (activations_after_training(width, "mup") for width in (32, 256))
    assert 0.5 < wide["block"] / narrow["block"] < 2
    assert 0.5 < wide["logits"] / narrow["logits"] < 2
    narrow, wide = (activations_after_training(width, "xavier") for width in (32, 256))
    assert wide["block"] / narrow["block"] > 2
