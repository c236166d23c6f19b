from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from tests.training.alone import alone
from training.config import ModelConfig
from training.models.recompute import Recompute
from training.models.transformer import Transformer

CONFIG = ModelConfig(layers=4, heads=4, kv_heads=2, width=64, context_length=32, mlp="gelu")
IDS = torch.randint(0, 50, (2, 32), generator=torch.Generator().manual_seed(0))
DOCUMENTS = torch.arange(32).expand(2, 32) // 10


def model_of(config: ModelConfig, policy: Recompute, every: int = 1) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(replace(config, initialization="xavier"), 50)
    model.set_recompute(policy, every)
    return model


def loss_and_gradients(
    model: Transformer, bf16: bool = False, wrapped: Callable[[Any], Any] = lambda function: function
) -> list[Tensor]:
    def loss(ids: Tensor, documents: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return model(ids, documents).float().logsumexp(-1).square().mean()

    torch.manual_seed(3)
    value = wrapped(loss)(IDS, DOCUMENTS)
    value.backward()
    return [value.detach(), *(parameter.grad for parameter in model.parameters())]  # type: ignore[list-item]


def kept_bytes(model: Transformer) -> int:
    """Bytes allocated by a forward pass and not freed while its result lives."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as memory:
        logits = model(IDS)
    assert logits.requires_grad
    return sum(event.self_cpu_memory_usage for event in memory.key_averages())


@pytest.mark.parametrize("policy", ["products", "blocks"])
@pytest.mark.parametrize(
    ("changes", "bf16"),
    [
        ({"dropout": 0.3, "attention_dropout": 0.2}, False),
        ({"layer_groups": 2, "positions": "alibi", "window": 8, "global_every": 2}, True),
    ],
    ids=["dropout", "shared-bf16"],
)
def test_gradients_stay_the_same(policy: Recompute, changes: dict[str, Any], bf16: bool) -> None:
    config = replace(CONFIG, **changes)
    expected = loss_and_gradients(model_of(config, "none"), bf16)
    ours = loss_and_gradients(model_of(config, policy), bf16)
    # Bit for bit, but for the casts of shared weights: each of its uses has one of its own, and sums its gradient.
    equal = (lambda a, b: torch.allclose(a, b, rtol=2e-2, atol=2e-2 * float(b.abs().max()))) if bf16 else torch.equal
    assert all(equal(a, b) for a, b in zip(ours, expected, strict=True))


@pytest.mark.parametrize("policy", ["products", "blocks"])
def test_it_compiles_in_one_graph(policy: Recompute) -> None:
    def compiled(function: Any) -> Any:
        return torch.compile(function, fullgraph=True, dynamic=False, backend="aot_eager")

    config = replace(CONFIG, layers=1)
    expected = loss_and_gradients(model_of(config, "none"))
    ours = loss_and_gradients(model_of(config, policy), wrapped=compiled)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(ours, expected, strict=True))


def kept_by_policy() -> dict[tuple[str, int], int]:
    policies: list[tuple[Recompute, int]] = [
        ("none", 1),
        ("products", 1),
        ("blocks", 1),
        ("products", 2),
        ("blocks", 2),
    ]
    return {(policy, every): kept_bytes(model_of(CONFIG, policy, every)) for policy, every in policies}


def test_less_is_kept() -> None:
    kept = alone(kept_by_policy)
    everything = kept["none", 1]
    assert 3 * kept["blocks", 1] < kept["products", 1] < 0.6 * everything
    assert kept["blocks", 1] < 0.1 * everything
    # On every second layer it saves half as much.
    for policy in ("products", "blocks"):
        saved, saved_by_half = (everything - kept[policy, every] for every in (1, 2))
        assert saved_by_half == pytest.approx(saved / 2, rel=0.05)
    # Of a layer with `blocks` there is its input alone; the rest are the head's operand and the logits.
    stream, logits = 2 * 32 * 64 * 4, 2 * 32 * 50 * 4
    assert kept["blocks", 1] < 8 * stream + logits + 10_000
