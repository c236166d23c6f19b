"""How much the parts of a trunk matter, and which of them stay.

Shape suffixes: B sequences, T tokens, D residual width, H query heads, G key and value heads, K head width, F
feed-forward width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.devices import Compute
from training.models.transformer import Transformer
from training.objectives import Batch, Objective

NEURON_MULTIPLE = 32
"""What the number of neurons that stay is rounded up to, as kernels and groups of quantized weights want it."""


@dataclass
class Importance:
    """Of each part, float64 on the CPU; the larger, the more it matters."""

    groups: list[Tensor]
    """(G,) by block: key and value heads with the query heads that they serve."""
    neurons: list[Tensor]
    """(F,) by block."""
    layers: Tensor
    """(L,) by place in the forward pass."""
    channels: Tensor
    """(D,) of the residual stream."""


def measure_importance(
    model: Transformer, objective: Objective, batches: Iterable[Batch], compute: Compute
) -> Importance:
    """Importance from the loss of some batches and its gradient; the model's weights and gradients stay as they are.

    heads: the mean over sequences of |sum of a . dL/da| over what the heads of a group hand on (a gate of 1 on it has
    this derivative; Michel et al. 2019, equation 2). neurons: the mean over tokens of |a . dL/da| (Molchanov et al.
    2017, equation 7). layers: 1 - the mean cosine of the stream before and after (Men et al. 2024, equation 1).
    channels: the mean of |x| over the streams behind all layers (Muralidharan et al. 2024, equation 2).
    """
    config = model.config
    served = config.heads // config.key_value_heads
    found = Importance(
        [torch.zeros(config.key_value_heads, dtype=torch.float64) for _ in model.blocks],
        [torch.zeros(config.hidden_width, dtype=torch.float64) for _ in model.blocks],
        torch.zeros(config.layers, dtype=torch.float64),
        torch.zeros(config.width, dtype=torch.float64),
    )
    was_training = model.training
    model.eval()
    count = 0
    for batch in batches:
        with _recorded(model) as seen, torch.enable_grad(), compute.autocast():
            objective.loss(model, batch).backward()
        for block, x_BTN in seen.gathered:
            assert x_BTN.grad is not None
            product_BHT = (x_BTN.detach() * x_BTN.grad).double().unflatten(2, (config.heads, -1)).sum(3).mT
            by_group_BG = product_BHT.sum(2).unflatten(1, (-1, served)).sum(2)
            found.groups[block] += by_group_BG.abs().mean(0).cpu()
        for block, x_BTF in seen.activated:
            assert x_BTF.grad is not None
            found.neurons[block] += (x_BTF.detach() * x_BTF.grad).double().abs().mean((0, 1)).cpu()
        passes = len(seen.streams) // config.layers
        for place, (before_BTD, after_BTD) in enumerate(seen.streams):
            cosine = F.cosine_similarity(before_BTD, after_BTD, dim=2).double().mean().cpu()
            found.layers[place % config.layers] += (1 - cosine) / passes
            found.channels += after_BTD.double().abs().mean((0, 1)).cpu() / len(seen.streams)
        count += 1
    model.zero_grad(set_to_none=True)
    model.train(was_training)
    assert count, "no batches"
    scaled = Importance(
        [one / count for one in found.groups],
        [one / count for one in found.neurons],
        found.layers / count,
        found.channels / count,
    )
    everything = torch.cat([*scaled.groups, *scaled.neurons, scaled.layers])
    if not torch.isfinite(everything).all():
        raise ValueError("the loss or its gradient is not finite on the training data; the model has diverged")
    return scaled


def magnitudes(model: Transformer) -> tuple[list[Tensor], list[Tensor]]:
    """The norm of the weights of each group of heads (G,) and of each neuron (F,), by block, float64 on the CPU."""
    config = model.config
    groups, neurons = [], []
    for block in model.blocks:
        attention: Any = block.attention
        mlp: Any = block.mlp
        parts = attention.qkv.weight.detach().double().split(attention.parts)
        squares_G = sum(part.square().reshape(config.key_value_heads, -1).sum(1) for part in parts)
        squares_G = squares_G + attention.output.weight.detach().double().square().sum(0).reshape(
            config.key_value_heads, -1
        ).sum(1)
        groups.append(squares_G.sqrt().cpu())
        rows = mlp.input.weight.detach().double().split(mlp.parts)
        squares_F = sum(part.square().sum(1) for part in rows)
        squares_F = squares_F + mlp.output.weight.detach().double().square().sum(0)
        neurons.append(squares_F.sqrt().cpu())
    return groups, neurons


def most_important(scores: Tensor, count: int) -> list[int]:
    """The indices of the `count` largest scores, ascending; of equal ones the first."""
    order = torch.argsort(scores, descending=True, stable=True)
    return sorted(order[:count].tolist())


def kept_count(total: int, share: float, multiple: int = 1) -> int:
    """How many of `total` parts stay when this share goes: at least one, rounded up to a multiple where that fits."""
    count = max(1, total - round(share * total))
    return min(total, -(-count // multiple) * multiple) if total > multiple else count


def evenly_spaced(total: int, count: int) -> list[int]:
    """`count` of `total` layers, the last one among them."""
    return [(place + 1) * total // count - 1 for place in range(count)]


@dataclass
class _Seen:
    gathered: list[tuple[int, Tensor]]
    """Block, and what its attention gathered (B, T, H K), before the output matrix."""
    activated: list[tuple[int, Tensor]]
    streams: list[tuple[Tensor, Tensor]]
    """Before and after each layer, in the order of the forward pass."""


@contextlib.contextmanager
def _recorded(model: Transformer) -> Iterator[_Seen]:
    """Record what the layers compute; of what the output matrices read, the gradients, too."""
    seen = _Seen([], [], [])
    handles = []
    for index, block in enumerate(model.blocks):
        attention: Any = block.attention
        mlp: Any = block.mlp
        handles.append(attention.output.register_forward_pre_hook(_keeper(seen.gathered, index)))
        handles.append(mlp.output.register_forward_pre_hook(_keeper(seen.activated, index)))
        handles.append(block.register_forward_hook(_stream(seen.streams)))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _keeper(into: list[tuple[int, Tensor]], index: int) -> Any:
    def keep(module: nn.Module, arguments: Sequence[Tensor]) -> None:
        arguments[0].retain_grad()
        into.append((index, arguments[0]))

    return keep


def _stream(into: list[tuple[Tensor, Tensor]]) -> Any:
    def keep(module: nn.Module, arguments: Sequence[Tensor], output: Tensor) -> None:
        into.append((arguments[0].detach(), output.detach()))

    return keep
