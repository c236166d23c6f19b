"""LoRA and AdaLoRA are peft's: drawn weights, outputs, gradients, steps, budget, merged weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import AdaLoraConfig, LoraConfig
from torch import nn

from tests.training.adapters.pairs import Pair, batches, matching, pair
from tests.training.huggingface.parity import GRADIENT, LOGITS, LOSS
from training.adapters import AdapterConfig
from training.adapters.low_rank import LowRankLinear
from training.adapters.rank_budget import RankBudget, Triplets

TARGETS: dict[str, tuple[tuple[Any, ...], list[str] | str]] = {
    "gpt2": (("qkv", "attention_output", "up", "down"), ["c_attn", "c_proj", "c_fc"]),
    "llama": (("all",), ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]),
    "bert": (("query", "value"), ["query", "value"]),
}
FAMILIES = pytest.mark.parametrize("family", list(TARGETS))


def lora(family: str, dropout: float = 0.0, spread: bool = True) -> Pair:
    mine, theirs = TARGETS[family]
    config = AdapterConfig("lora", rank=3, alpha=5.0, dropout=dropout, targets=mine)
    return pair(family, config, LoraConfig(r=3, lora_alpha=5, lora_dropout=dropout, target_modules=theirs), spread)


def adalora(family: str, steps: int = 12, spread: bool = True) -> Pair:
    mine, theirs = TARGETS[family]
    betas = {"beta1": 0.7, "beta2": 0.9}
    config = AdapterConfig(
        "adalora", initial_rank=4, target_rank=2, alpha=8.0, targets=mine, tinit=2, tfinal=3, delta_t=2, **betas
    )
    other = AdaLoraConfig(
        init_r=4,
        target_r=2,
        lora_alpha=8,
        target_modules=theirs,
        tinit=2,
        tfinal=3,
        deltaT=2,
        total_step=steps,
        **betas,
    )
    return pair(family, config, other, spread)


@FAMILIES
def test_one_seed_draws_the_adapters_of_peft(family: str) -> None:
    for made in (lora(family, spread=False), adalora(family, spread=False)):
        for mine, other in matching(made):
            assert torch.equal(mine, other)


@FAMILIES
@pytest.mark.parametrize("kind", [lora, adalora])
def test_outputs_and_gradients_are_those_of_peft(kind: Any, family: str) -> None:
    made = kind(family)
    (ids,) = batches(1)
    made.theirs.train()
    made.ours.train()
    theirs, ours = made.logits(ids)
    torch.testing.assert_close(ours, theirs, **LOGITS)
    theirs, ours = made.losses(ids)
    torch.testing.assert_close(ours, theirs, **LOSS)
    theirs.backward()
    ours.backward()
    for mine, other in matching(made):
        assert (mine.grad - other.grad).abs().max() < GRADIENT * other.grad.abs().max()
    assert sum(parameter.grad is not None for parameter in made.ours.parameters()) == len(made.adaptation.trained())


@FAMILIES
def test_dropout_of_one_seed_drops_what_peft_drops(family: str) -> None:
    made = lora(family, dropout=0.4)
    (ids,) = batches(1)
    made.theirs.train()
    made.ours.train()
    torch.manual_seed(1)
    theirs = made.theirs(input_ids=ids).logits
    torch.manual_seed(1)
    torch.testing.assert_close(made.ours(ids), theirs, **LOGITS)
    assert not torch.allclose(made.ours.eval()(ids), theirs, atol=1e-2)


@FAMILIES
@pytest.mark.parametrize("kind", [lora, adalora])
def test_steps_and_merged_weights_are_those_of_peft(kind: Any, family: str) -> None:
    made, steps = kind(family, spread=False), 12
    optimizers = [
        torch.optim.AdamW([both[side] for both in matching(made)], lr=3e-2, eps=1e-4, weight_decay=0.01)
        for side in (0, 1)
    ]
    for index, ids in enumerate(batches(steps), 1):
        for loss, optimizer in zip(reversed(made.losses(ids)), optimizers, strict=True):
            loss.backward()
            optimizer.step()
        made.adaptation.after_step(index, steps)
        if kind is adalora:
            made.theirs.base_model.update_and_allocate(index)
        for optimizer in optimizers:
            optimizer.zero_grad()
    for mine, other in matching(made):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=2e-5)
    if kind is adalora:
        ranks = made.adaptation.ranks()
        assert sum(ranks.values()) == 2 * len(ranks)
    (ids,) = batches(1, length=20)
    adapted = made.ours(ids).detach()
    made.adaptation.merge()
    assert not any(isinstance(module, LowRankLinear) for module in made.ours.modules())
    assert all(parameter.requires_grad for parameter in made.ours.parameters())
    merged = made.theirs.merge_and_unload()
    torch.testing.assert_close(made.ours(ids), merged(ids).logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(made.ours(ids), adapted, rtol=1e-4, atol=5e-5)


def test_the_budget_falls_as_in_peft() -> None:
    made = adalora("llama", steps=40)
    theirs = made.theirs.base_model.rankallocator
    budget = made.adaptation._budget
    assert budget is not None
    assert budget.initial == theirs.init_bgt
    for step in range(45):
        assert budget.budget(step, 40) == theirs.budget_schedule(step)[0]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(1, 3), st.integers(0, 1000))
def test_the_triplets_that_stay_are_the_most_important(widths: list[int], target: int, seed: int) -> None:
    torch.manual_seed(seed)
    triplets = {str(index): Triplets(width, width + 1, 4, 1.0, 0.0) for index, width in enumerate(widths)}
    budget = RankBudget(AdapterConfig("adalora", initial_rank=4, target_rank=target, beta1=0.5, beta2=0.5), triplets)
    expected = {}
    for name, each in triplets.items():
        scores = []
        for part in (each.values, each.down, each.up):
            torch.nn.init.normal_(part)
            part.grad = torch.randn_like(part)
            now = (part * part.grad).abs().detach()
            # Of averages that began at nought: sensitivity now / 2, its distance from now again halved.
            scores.append((now / 2) * (now / 2 / 2))
        for rank in range(4):
            expected[name, rank] = float(scores[0][rank, 0] + scores[1][rank].mean() + scores[2][:, rank].mean())
    budget.step(1, 2)
    kept = {(name, rank) for name, each in triplets.items() for rank in range(4) if each.values[rank] != 0}
    stay = int((4 - target) * len(widths) / 8 + target * len(widths))  # half-way, to the third power
    assert kept == set(sorted(expected, key=lambda key: -expected[key])[:stay])


def test_a_gradient_that_is_no_number_leaves_the_budget_in_order() -> None:
    made = adalora("bert")
    for step in range(1, 13):
        made.losses(batches(12)[step - 1])[1].backward()
        if step == 3:  # whose update a training leaves out
            for parameter in made.adaptation.trained():
                assert parameter.grad is not None
                parameter.grad.fill_(float("nan" if parameter.ndim > 1 and parameter.shape[1] > 1 else "inf"))
        else:
            with torch.no_grad():
                for parameter in made.adaptation.trained():
                    assert parameter.grad is not None
                    parameter -= 0.1 * parameter.grad
        made.adaptation.after_step(step, 12)
        made.adaptation.model.zero_grad()
    budget = made.adaptation._budget
    assert budget is not None
    assert sum(made.adaptation.ranks().values()) == budget.target


def test_a_stopped_adalora_goes_on_as_if_it_had_not_been() -> None:
    def train(made: Pair, first: int, last: int) -> None:
        optimizer = torch.optim.SGD(made.adaptation.trained(), lr=0.1)
        for step in range(first, last + 1):
            made.losses(batches(12)[step - 1])[1].backward()
            optimizer.step()
            made.adaptation.after_step(step, 12)
            optimizer.zero_grad()

    whole, stopped, resumed = (adalora("bert") for _ in range(3))
    train(whole, 1, 8)
    train(stopped, 1, 6)
    state = {name: tensor.clone() for name, tensor in stopped.adaptation.state_tensors().items()}
    resumed.adaptation.load_state_tensors(state)
    handed_in = {name: tensor.clone() for name, tensor in state.items()}
    train(resumed, 7, 8)
    assert all(torch.equal(state[name], tensor) for name, tensor in handed_in.items())
    expected = whole.adaptation.state_tensors()
    assert {name.split("/")[1] for name in expected if "/" in name} == {"sensitivity", "uncertainty", "kept"}
    for first, last in ((9, 12), (13, 12)):
        found = resumed.adaptation.state_tensors()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        train(whole, first, last)
        train(resumed, first, last)
        expected = whole.adaptation.state_tensors()


def test_a_layer_with_an_adapter_computes_the_formula() -> None:
    made = lora("llama")
    layer = made.ours.blocks[0].attention.qkv
    assert isinstance(layer, LowRankLinear)
    x = torch.randn(3, 5, 32, dtype=torch.float64)
    layer.double()
    expected = nn.functional.linear(x, layer.weight, layer.bias)
    for name, (begin, end) in {"query": (0, 32), "key": (32, 48), "value": (48, 64)}.items():
        adapter: Any = layer.adapters[name]
        expected[..., begin:end] += 5 / 3 * x @ adapter.down.T @ adapter.up.T
    torch.testing.assert_close(layer(x), expected)
