"""What is left of a model computes what the whole one does with the same parts silenced."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tests.training.small_models import one_thread  # noqa: F401
from training.compression.pruning_cut import Kept, check_cut, cut
from training.compression.pruning_importance import (
    evenly_spaced,
    kept_count,
    magnitudes,
    measure_importance,
    most_important,
)
from training.config import ModelConfig, ObjectiveConfig, TrainingConfig
from training.devices import resolve
from training.distributed import World
from training.models.transformer import Transformer
from training.objectives import Setting
from training.objectives import build as build_objective

SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {"norm": "layernorm", "bias": "all", "mlp": "gelu_tanh", "positions": "learned", "tied_embeddings": True},
    "llama": {"heads": 4, "kv_heads": 2, "mlp": "swiglu", "mlp_width": 48, "qk_norm": "none"},
    "qwen": {"heads": 4, "kv_heads": 2, "head_width": 6, "mlp": "geglu", "mlp_width": 32, "qk_norm": "gains"},
    "nano": {"bigram_buckets": 64},
    "bert": {
        "attention": "bidirectional",
        "norm": "layernorm",
        "bias": "all",
        "token_types": 2,
        "positions": "learned",
        "head": "transform",
        "head_bias": True,
        "embedding_norm": True,
        "tied_embeddings": True,
        "pooler": True,
        "sentence_classes": 2,
    },
    "albert": {"layer_groups": 1, "embedding_width": 8, "head": "transform", "tied_embeddings": True},
}


def random_model(**shape: Any) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(ModelConfig(**{"layers": 4, "heads": 4, "width": 32, "context_length": 16, **shape}), 50)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model.eval()


def ids() -> torch.Tensor:
    return torch.randint(50, (3, 16), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("name", SHAPES)
def test_removed_heads_and_neurons_are_silenced_ones(name: str) -> None:
    model = random_model(**SHAPES[name])
    config, generator = model.config, torch.Generator().manual_seed(3)
    served = config.heads // config.key_value_heads * config.width_of_head
    groups, neurons = [], []
    for _ in model.blocks:
        groups.append(sorted(torch.randperm(config.key_value_heads, generator=generator)[:1].tolist()))
        neurons.append(sorted(torch.randperm(config.hidden_width, generator=generator)[:20].tolist()))
    smaller = cut(model, Kept(groups=groups, neurons=neurons))
    with torch.no_grad():
        for block, heads, hidden in zip(model.blocks, groups, neurons, strict=True):
            for group in set(range(config.key_value_heads)) - set(heads):
                block.attention.output.weight[:, group * served : (group + 1) * served] = 0.0  # type: ignore[union-attr,index,operator]
            silent = sorted(set(range(config.hidden_width)) - set(hidden))
            block.mlp.output.weight[:, silent] = 0.0  # type: ignore[union-attr,index,operator]
        torch.testing.assert_close(smaller(ids()), model(ids()), rtol=1e-4, atol=1e-4)
    assert smaller.config.key_value_heads == 1
    assert smaller.config.hidden_width == 20
    assert smaller.parameters_count() < model.parameters_count()


@pytest.mark.parametrize("name", ["gpt2", "llama", "nano"])
def test_removed_layers_are_silenced_ones(name: str) -> None:
    model = random_model(**SHAPES[name])
    smaller = cut(model, Kept(layers=[0, 3]))
    with torch.no_grad():
        for layer in (1, 2):
            for part in (model.blocks[layer].attention.output, model.blocks[layer].mlp.output):  # type: ignore[union-attr]
                for parameter in part.parameters():
                    parameter.zero_()
        torch.testing.assert_close(smaller(ids()), model(ids()), rtol=1e-4, atol=1e-4)
    assert smaller.config.layers == 2


def test_shared_layers_become_fewer() -> None:
    model = random_model(**SHAPES["albert"])
    smaller = cut(model, Kept(layers=[1, 3]))
    again = random_model(**{**SHAPES["albert"], "layers": 2})
    again.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(smaller(ids()), again(ids()))


@pytest.mark.parametrize("name", ["llama", "albert"])
def test_removed_channels_are_silenced_ones(name: str) -> None:
    """A stream whose other channels are zero has the same RMS norm but for the root of the share of channels."""
    shape = SHAPES[name]
    model = random_model(**shape)
    kept = [0, 3, 4, 5, 9, 11, 12, 13, 18, 19, 20, 21, 25, 26, 28, 31]
    smaller = cut(model, Kept(channels=kept))
    narrow = model.config.embedding_width is None
    silent = sorted(set(range(32)) - set(kept))
    with torch.no_grad():
        if narrow:
            model.embedding.weight[:, silent] = 0.0
        else:
            assert model.embedding_projection is not None
            model.embedding_projection.weight[silent] = 0.0
            model.embedding_projection.bias[silent] = 0.0
        for block in model.blocks:
            block.attention.output.weight[silent] = 0.0  # type: ignore[union-attr,index,operator]
            block.mlp.output.weight[silent] = 0.0  # type: ignore[union-attr,index,operator]
        for key, parameter in smaller.named_parameters():
            if "norm" in key and parameter.shape == (16,):
                parameter.mul_(math.sqrt(32 / 16))
        torch.testing.assert_close(smaller(ids()), model(ids()), rtol=1e-4, atol=1e-4)
    assert smaller.config.width == 16
    assert smaller.config.width_of_head == model.config.width_of_head


@pytest.mark.parametrize(
    ("shape", "removed", "message"),
    [
        ({"architecture": "two_stream", "positions": "relative"}, {}, "architecture two_stream: only a transformer's"),
        ({"layer_groups": 3}, {"layers": True}, "layer_groups 3"),
        ({"window": 4, "global_every": 2}, {"layers": True}, "global_every"),
        ({"positions": "alibi"}, {"heads": True}, "alibi"),
        ({"initialization": "mup"}, {"channels": True}, "mup"),
        ({"initialization": "mup", "mup_base_layers": 2}, {"layers": True}, "mup_base_layers"),
    ],
)
def test_what_cannot_be_removed(shape: dict[str, Any], removed: dict[str, bool], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_cut(ModelConfig(**shape), **removed)


def importance_of(model: Transformer, layers: int = 1) -> Any:
    objective = build_objective(ObjectiveConfig(), Setting(50, 0))
    rows = {"tokens": torch.randint(50, (3, 17), generator=torch.Generator().manual_seed(4))}
    batch = objective.prepare(rows)
    compute = resolve(TrainingConfig(device="cpu", precision="fp32", threads=1, compile="off"), World())
    return measure_importance(model, objective, [batch], compute), objective, batch


def test_importance_of_heads_is_the_derivative_of_their_gates() -> None:
    """Of one sequence at a time, by finite differences of a factor on what a group of heads hands on (float64)."""
    model = random_model(**SHAPES["llama"]).double()
    found, objective, batch = importance_of(model)
    served = model.config.width_of_head * 2
    for block in (0, 3):
        for group in range(2):
            slopes = []
            for row in range(3):
                one = {name: tensor[row : row + 1] for name, tensor in batch.items()}
                losses = []
                for factor in (1 - 1e-4, 1 + 1e-4):
                    weight = model.blocks[block].attention.output.weight  # type: ignore[union-attr]
                    kept = weight.detach().clone()  # type: ignore[operator]
                    with torch.no_grad():
                        weight[:, group * served : (group + 1) * served] *= factor  # type: ignore[index,operator]
                        losses.append(objective.loss(model, one).item())
                        weight.copy_(kept)  # type: ignore[operator]
                slopes.append(abs(losses[1] - losses[0]) / 2e-4)
            # The loss of the batch is the mean over its three sequences.
            assert float(found.groups[block][group]) == pytest.approx(sum(slopes) / 9, rel=1e-3)


def test_a_layer_that_does_nothing_matters_least() -> None:
    model = random_model(**SHAPES["gpt2"])
    with torch.no_grad():
        for part in (model.blocks[2].attention.output, model.blocks[2].mlp.output):  # type: ignore[union-attr]
            for parameter in part.parameters():
                parameter.zero_()
        model.blocks[1].mlp.output.weight[:, 5] = 0.0  # type: ignore[union-attr,index,operator]
        model.blocks[1].mlp.input.weight[5] = 0.0  # type: ignore[union-attr,index,operator]
    found, _, _ = importance_of(model)
    assert float(found.layers[2]) == pytest.approx(0.0, abs=1e-6)
    assert most_important(found.layers, 3) == [0, 1, 3]
    assert float(found.neurons[1][5]) == 0.0
    assert float(magnitudes(model)[1][1][5]) == 0.0
    assert all(parameter.grad is None for parameter in model.parameters())


def test_counts_and_places() -> None:
    assert kept_count(12, 0.5) == 6
    assert kept_count(4, 0.999) == 1
    assert kept_count(1024, 0.3, 32) == 736  # 717 and up to a multiple of 32
    assert kept_count(20, 0.5, 32) == 10
    assert evenly_spaced(12, 6) == [1, 3, 5, 7, 9, 11]  # TinyBERT's map
    assert evenly_spaced(5, 2) == [1, 4]
    assert most_important(torch.tensor([1.0, 3.0, 3.0, 0.0]), 2) == [1, 2]
