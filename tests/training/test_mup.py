"""Coordinate checks (Yang et al. 2022, appendix D.1): how far activations move in some steps, as a model grows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from training import mup
from training.config import ModelConfig, OptimizerConfig
from training.models.multipliers import with_multipliers
from training.models.transformer import Transformer
from training.optimizers import build

METHODS = get_args(mup.Method)
RATES = {"adamw": 0.01, "lion": 0.003, "sgd": 0.3, "lamb": 0.01, "muon": 0.01}
WIDTHS = (32, 64, 128, 256)
DEPTHS = (4, 8, 16)
VOCABULARY = 64


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def moved(method: str, config: ModelConfig, steps: int = 3) -> dict[str, float]:
    """Root mean square of the change of activations on one batch, after steps on it."""
    torch.manual_seed(0)
    model = Transformer(config, VOCABULARY)
    settings = OptimizerConfig(name=method, learning_rate=RATES[method], muon_learning_rate=0.02)  # type: ignore[arg-type]
    optimizer = build(settings, model)
    ids = torch.randint(0, VOCABULARY, (8, 16), generator=torch.Generator().manual_seed(1))
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda _module, _inputs, output: outputs.__setitem__(name, output.detach())

    last: Any = model.blocks[-1]
    watched = {
        "embedding": model.embedding,
        "queries, keys, values": last.attention.qkv,
        "attention": last.attention.output,
        "feed-forward, inside": last.mlp.input,
        "feed-forward": last.mlp.output,
        "stream": last,
        "logits": model.head,
    }
    for name, module in watched.items():
        module.register_forward_hook(keep(name))

    def loss() -> Tensor:
        logits = model(ids)
        return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())

    begin = loss()
    before = dict(outputs)
    for _ in range(steps):
        optimizer.zero_grad()
        begin.backward()
        optimizer.step(1.0)
        begin = loss()
    return {name: float((outputs[name] - before[name]).square().mean().sqrt()) for name in watched}


def growth(method: str, configs: list[ModelConfig], sizes: tuple[int, ...]) -> dict[str, float]:
    """The power of the size with which each activation's movement grows: the slope of a line through the logarithms."""
    rows = [moved(method, config) for config in configs]
    logs = np.log(sizes)
    return {name: float(np.polyfit(logs, [math.log(row[name]) for row in rows], 1)[0]) for name in rows[0]}


def by_width(method: str, initialization: Any, **changes: Any) -> dict[str, float]:
    shape = ModelConfig(layers=2, context_length=16, initialization=initialization, mup_base_width=32, **changes)
    configs = [replace(shape, width=width, heads=width // 16) for width in WIDTHS]
    return growth(method, configs, WIDTHS)


def by_depth(method: str, **changes: Any) -> dict[str, float]:
    shape = ModelConfig(width=32, heads=2, context_length=16, initialization="mup", mup_base_width=32, **changes)
    return growth(method, [replace(shape, layers=layers) for layers in DEPTHS], DEPTHS)


@pytest.mark.parametrize("method", METHODS)
def test_activations_move_alike_at_every_width(method: str) -> None:
    slopes = by_width(method, "mup")
    # Random logits at the start become smaller, by what the head reads, and what they move by with them.
    assert -0.35 < slopes.pop("logits") < 0.15
    assert all(abs(slope) < 0.15 for slope in slopes.values()), slopes


@pytest.mark.parametrize("method", METHODS)
def test_without_mup_something_grows_with_the_width(method: str) -> None:
    assert max(by_width(method, "small").values()) > 0.4


@pytest.mark.parametrize("method", METHODS)
def test_the_stream_moves_alike_at_every_depth(method: str) -> None:
    for exponent in (0.5, 1.0):
        slopes = by_depth(method, mup_base_layers=4, mup_depth_exponent=exponent)
        assert all(abs(slope) < 0.35 for slope in slopes.values()), (exponent, slopes)
    assert by_depth(method)["stream"] > 0.6


def test_wider_heads_need_their_own_scale() -> None:
    """Definition 4.1 of Yang et al. 2022: correlated queries and keys make scores grow as the width of a head."""

    def scores(head_width: int, base: int | None) -> float:
        config = ModelConfig(
            layers=1,
            heads=1,
            width=64,
            head_width=head_width,
            qk_norm="none",
            positions="none",
            initialization="mup",
            mup_base_head_width=base,
        )
        attention: Any = Transformer(config, VOCABULARY).blocks[0].attention
        with torch.no_grad():  # each key is its query
            rows = attention.parts[0]
            attention.qkv.weight[rows : 2 * rows] = attention.qkv.weight[:rows]
            x = torch.randn(1, 8, 64, generator=torch.Generator().manual_seed(0))
            model = Transformer(config, VOCABULARY)
            query, key, _ = attention.projections(x, model.context(x))
        return float((query * key).sum(-1).mean()) / math.sqrt(head_width)

    assert scores(256, 16) == pytest.approx(scores(16, 16), rel=0.3)
    assert scores(256, None) > 3 * scores(16, None)


@pytest.mark.parametrize("qk_norm", ["none", "gains"])
def test_multipliers_can_become_part_of_the_weights(qk_norm: Any) -> None:
    torch.manual_seed(0)
    plain = ModelConfig(layers=4, heads=4, kv_heads=2, width=32, context_length=16, bias="all", qk_norm=qk_norm)
    config = replace(plain, initialization="mup", mup_base_width=8, mup_base_layers=2, mup_base_head_width=2)
    model, other = Transformer(config, VOCABULARY), Transformer(plain, VOCABULARY)
    other.load_state_dict(with_multipliers(model.state_dict(), config))
    ids = torch.randint(0, VOCABULARY, (2, 16))
    torch.testing.assert_close(other(ids), model(ids), rtol=1e-5, atol=1e-5)
    other.load_state_dict(model.state_dict())
    assert not torch.allclose(other(ids), model(ids), atol=1e-2)


def test_at_the_base_size_nothing_is_multiplied() -> None:
    config = ModelConfig(initialization="mup", mup_base_width=256, mup_base_layers=6, mup_base_head_width=64)
    assert mup.branch(config) == mup.query(config) == mup.output(config) == 1
    for method in METHODS:
        for of_block in (True, False):
            for matrix in (True, False):
                assert mup.scale(config, method, of_block, matrix) == (1, 1, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mup_base_layers": 2}, "mup_base_layers needs initialization: mup, got small"),
        ({"mup_base_head_width": 8}, "mup_base_head_width needs initialization: mup, got small"),
        ({"initialization": "mup", "mup_base_layers": 0}, "mup_base_layers must be at least 1, got 0"),
        ({"initialization": "mup", "mup_depth_exponent": 2.0}, r"mup_depth_exponent must lie in \[0.5, 1\], got 2"),
        ({"initialization": "mup", "head": "transform"}, "initialization: mup needs head: linear, got transform"),
        ({"initialization": "mup", "pooler": True}, "initialization: mup needs pooler: false, got true"),
        (
            {"initialization": "mup", "architecture": "two_stream", "positions": "relative"},
            "initialization: mup needs architecture: transformer, got two_stream",
        ),
        (
            {"initialization": "mup", "mup_base_layers": 2, "norm_position": "post"},
            "mup_base_layers needs norm_position: pre",
        ),
    ],
)
def test_what_has_no_rules_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig(**changes)


def test_other_initialisations_keep_their_identity() -> None:
    """So that trainings from before the settings of depth are found again."""
    assert "mup_base_width" in ModelConfig().identity()
    assert not {"mup_base_layers", "mup_depth_exponent", "mup_base_head_width"} & ModelConfig().identity().keys()
    assert "mup_base_layers" in ModelConfig(initialization="mup").identity()
