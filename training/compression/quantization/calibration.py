"""The ranges of the activations that linear layers read, seen on text."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from training.compression.quantization.config import QuantizationConfig
from training.models import Model

_BINS = 8192
"""Of the histogram that percentiles are read off: they are exact to this part of the range."""


class Extremes:
    """The least and the greatest value, float32 scalars."""

    def __init__(self) -> None:
        self.range: tuple[Tensor, Tensor] | None = None

    def see(self, x: Tensor) -> None:
        """Take values of any shape in."""
        low, high = torch.aminmax(x.float())
        if self.range is not None:
            low, high = torch.minimum(low, self.range[0]), torch.maximum(high, self.range[1])
        self.range = low, high


class Histogram:
    """Counts of values between known extremes."""

    def __init__(self, low: Tensor, high: Tensor) -> None:
        self._low, self._high = float(low), float(high)
        self._counts = torch.zeros(_BINS, dtype=torch.float64)

    def see(self, x: Tensor) -> None:
        """Take values of any shape in."""
        counts = torch.histc(x.detach().float().cpu(), _BINS, self._low, self._high)
        self._counts += counts.double()

    def covering(self, percent: float) -> tuple[float, float]:
        """The range without as large a share of the values at either end, `percent` of them in it."""
        outside = float(self._counts.sum()) * (100 - percent) / 200
        width = (self._high - self._low) / _BINS
        below, above = (int((c.cumsum(0) <= outside).sum()) for c in (self._counts, self._counts.flip(0)))
        return self._low + below * width, self._high - above * width


def calibrate(
    model: Model, layers: Mapping[str, nn.Linear], batches: Iterable[Tensor], config: QuantizationConfig
) -> dict[str, tuple[Tensor, Tensor]]:
    """The range (float32 scalars on the layer's device) of each layer's input over batches of ids (B, T).

    Raises ValueError where there is no batch, where a layer is never reached, or reads what is not finite.
    """
    kept = list(batches)
    extremes = {name: Extremes() for name in layers}
    _run(model, layers, kept, extremes)
    ranges: dict[str, tuple[Tensor, Tensor]] = {}
    for name, seen in extremes.items():
        if seen.range is None:
            raise ValueError(f"{name} has seen no activations: static_int8 needs at least one batch of text")
        if not torch.isfinite(torch.stack(seen.range)).all():
            raise ValueError(f"{name} reads NaN or infinite numbers; such a model cannot be calibrated")
        ranges[name] = seen.range
    if config.observer == "minmax":
        return ranges
    histograms = {name: Histogram(*ranges[name]) for name in layers}
    _run(model, layers, kept, histograms)
    for name, histogram in histograms.items():
        low, high = histogram.covering(config.percentile)
        device = layers[name].weight.device
        ranges[name] = torch.tensor(low, device=device), torch.tensor(high, device=device)
    return ranges


@torch.no_grad()
def _run(
    model: Model,
    layers: Mapping[str, nn.Linear],
    batches: Iterable[Tensor],
    observers: Mapping[str, Extremes] | Mapping[str, Histogram],
) -> None:
    hooks = [
        layer.register_forward_pre_hook(functools.partial(_see, observers[name])) for name, layer in layers.items()
    ]
    training = model.training
    model.eval()
    try:
        for ids_BT in batches:
            _read(model, ids_BT)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()


def _see(observer: Extremes | Histogram, module: nn.Module, inputs: tuple[Any, ...]) -> None:
    observer.see(inputs[0])


def _read(model: Model, ids_BT: Tensor) -> None:
    """Run all blocks of a model."""
    architecture = model.config.architecture
    if architecture == "replaced_token":
        model.generator.hidden(ids_BT)
        model.discriminator.hidden(ids_BT)
    elif architecture == "encoder_decoder":
        model.hidden(ids_BT, ids_BT)
    else:
        model.hidden(ids_BT)
