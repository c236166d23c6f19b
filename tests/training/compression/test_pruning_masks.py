"""Zeros by magnitude beside torch.nn.utils.prune, 2:4 beside brute force, and zeros that stay zero."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune

from tests.training.small_models import one_thread  # noqa: F401
from training.compression.pruning_masks import (
    GradualMasks,
    Masks,
    cubic_share,
    magnitude_masks,
    prunable,
    two_of_four_masks,
    zero_share,
)
from training.config import ModelConfig, OptimizerConfig
from training.models import build
from training.optimizers import build as build_optimizer


def small_model(**shape: object) -> nn.Module:
    torch.manual_seed(0)
    model = build(ModelConfig(layers=2, heads=2, width=16, context_length=8, **shape), 20)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


@settings(deadline=None, max_examples=30)
@given(st.floats(0.0, 0.99), st.sampled_from(["global", "layer"]), st.integers(0, 5))
def test_magnitude_is_that_of_torch(share: float, scope: str, seed: int) -> None:
    torch.manual_seed(seed)
    layers = nn.ModuleDict({"a": nn.Linear(7, 5), "b": nn.Linear(5, 11)})
    with torch.no_grad():
        layers["b"].weight.mul_(3.0)
    weights = {name: layer.weight for name, layer in layers.items()}
    ours = magnitude_masks(weights, share, scope)  # type: ignore[arg-type]
    if scope == "global":
        pairs = [(layer, "weight") for layer in layers.values()]
        prune.global_unstructured(pairs, prune.L1Unstructured, amount=share)
    else:
        for layer in layers.values():
            prune.l1_unstructured(layer, "weight", amount=share)
    for name, layer in layers.items():
        assert torch.equal(ours[name], layer.weight_mask.bool()), name


def test_of_equal_weights_no_more_than_asked_for_go() -> None:
    masks = magnitude_masks({"a": torch.ones(4, 5)}, 0.5, "layer")
    assert int(masks["a"].sum()) == 10


def test_two_of_four_keeps_the_best_pair_of_each_four() -> None:
    weight = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    mask = two_of_four_masks({"a": weight})["a"].reshape(-1, 4)
    for four, kept in zip(weight.reshape(-1, 4), mask, strict=True):
        best = max(itertools.combinations(range(4), 2), key=lambda pair: float(four[list(pair)].abs().sum()))
        assert kept.nonzero().flatten().tolist() == list(best)


def test_two_of_four_needs_rows_of_fours() -> None:
    with pytest.raises(ValueError, match=r"wide: 2:4 needs rows of a multiple of 4 weights, got 6"):
        two_of_four_masks({"wide": torch.ones(2, 6)})


def test_the_cubic_curve_is_that_of_the_paper() -> None:
    # Zhu & Gupta 2017, equation 1, with t0 = 0, n dt = 100: s_f + (s_i - s_f) (1 - t / 100)^3.
    assert cubic_share(0.0, 0.8, 0, 100) == 0.0
    assert cubic_share(0.0, 0.8, 50, 100) == pytest.approx(0.7)
    assert cubic_share(0.2, 0.8, 25, 100) == pytest.approx(0.8 - 0.6 * 0.421875)
    assert cubic_share(0.0, 0.8, 100, 100) == 0.8
    assert cubic_share(0.0, 0.8, 130, 100) == 0.8


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_zeros_stay_while_the_rest_learns(name: str) -> None:
    model = small_model()
    masks = Masks(model, magnitude_masks(prunable(model), 0.6, "global"))
    zeros = {key: weight.detach() == 0 for key, weight in prunable(model).items()}
    optimizer = build_optimizer(OptimizerConfig(name=name, weight_decay=0.1), model)  # type: ignore[arg-type]
    before = {key: weight.detach().clone() for key, weight in prunable(model).items()}
    for step in range(1, 4):
        model(torch.randint(20, (2, 8))).square().mean().backward()
        optimizer.step(1.0)
        optimizer.zero_grad()
        masks.after_step(step)
    for key, weight in prunable(model).items():
        assert torch.equal(weight.detach() == 0, zeros[key])
        assert not torch.equal(weight.detach(), before[key])
    assert zero_share(model) == pytest.approx(0.6, abs=1e-3)
    assert torch.all(model.embedding.weight != 0)  # type: ignore[union-attr]


def test_gradual_zeros_follow_the_curve_and_go_on_from_a_state() -> None:
    def run(stop_at: int | None) -> tuple[list[float], nn.Module]:
        model = small_model()
        masks, shares = GradualMasks(model, 0.8, "global", end=10, every=2), []
        optimizer = build_optimizer(OptimizerConfig(name="sgd", learning_rate=0.1), model)
        for step in range(1, 13):
            torch.manual_seed(step)
            model(torch.randint(20, (2, 8))).square().mean().backward()
            optimizer.step(1.0)
            optimizer.zero_grad()
            masks.after_step(step)
            shares.append(zero_share(model))
            if step == stop_at:
                state = masks.state_tensors()
                masks = GradualMasks(small_model(), 0.8, "global", end=10, every=2)
                masks._weights = prunable(model)
                masks.load_state_tensors(state)
        return shares, model

    shares, model = run(None)
    expected = [cubic_share(0.0, 0.8, step - step % 2, 10) for step in range(1, 11)] + [0.8, 0.8]
    assert shares == pytest.approx(expected, abs=1e-3)
    again, other = run(5)
    assert again == shares
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_what_blocks_share_counts_once_and_embeddings_stay_whole() -> None:
    names = set(prunable(small_model(layer_groups=1)))
    assert names == {
        f"blocks.0.{name}.weight" for name in ("attention.qkv", "attention.output", "mlp.input", "mlp.output")
    }
