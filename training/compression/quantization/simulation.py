"""Linear layers that train with the rounding of the quantized ones, in float ("fake quantization").

The gradient passes the rounding as if it were not there, and is 0 where an activation lies outside of its range (Jacob
et al. 2018, section 3; the straight-through estimator of Bengio et al. 2013). Shape suffixes: I inputs, O outputs.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.compression.quantization.arithmetic import (
    channel_scales,
    from_groups,
    group_scales,
    range_scale,
    row_scales,
    to_channels,
    to_groups,
)
from training.compression.quantization.config import QuantizationConfig
from training.compression.quantization.layers import QuantizedLinear, StaticLinear, make

_MOMENTUM = 0.01
"""Share of a batch in the moving average of the ranges of activations."""


class SimulatedLinear(nn.Linear):
    """A linear layer over the parameters of another, whose weights and activations are rounded in the forward pass.

    Evaluated it gives what the layer that `converted` makes of it does, but for the rounding of floats.
    """

    low: Tensor
    high: Tensor
    batches: Tensor

    def __init__(self, inputs: int, outputs: int, bias: bool, config: QuantizationConfig) -> None:
        super().__init__(inputs, outputs, bias)
        self.quantization = config
        if config.method == "static_int8":
            for name in ("low", "high"):
                self.register_buffer(name, torch.zeros(()))
            self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    @classmethod
    def of(cls, linear: nn.Linear, config: QuantizationConfig) -> SimulatedLinear:
        """Make one that shares the parameters of another layer."""
        with torch.device("meta"):
            layer = cls(linear.in_features, linear.out_features, linear.bias is not None, config)
        layer.weight, layer.bias = linear.weight, linear.bias
        for name, buffer in layer.named_buffers():
            setattr(layer, name, torch.zeros_like(buffer, device=linear.weight.device))
        return layer.train(linear.training)

    def forward(self, input: Tensor) -> Tensor:
        """The product (..., O) in the dtype of autocast, or else of the input."""
        if self.quantization.method == "dynamic_int8":
            input = rounded(input, row_scales(input.detach().flatten(0, -2)).view(*input.shape[:-1], 1))
        elif self.quantization.method == "static_int8":
            if self.training:
                self._watch(input.detach())
            scale, zero = range_scale(self.low, self.high)
            inside = input.clamp((-128 - zero) * scale, (127 - zero) * scale)
            input = rounded(inside, scale)
        return F.linear(input, _straight_through(self.weight, self._weight()), self.bias)

    @torch.no_grad()
    def converted(self) -> QuantizedLinear:
        """The quantized layer that this one stands for; raises ValueError where it has seen no activations."""
        layer = quantized(self, self.quantization)
        if isinstance(layer, StaticLinear):
            if not self.batches:
                raise ValueError("static_int8 needs a training in which each layer sees activations")
            layer.set_range(self.low, self.high)
        return layer

    @torch.no_grad()
    def _weight(self) -> Tensor:
        config = self.quantization
        if config.by_group:
            scale_OG = group_scales(self.weight, config.bits, config.group_size)
            return from_groups(to_groups(self.weight, scale_OG, config.bits), scale_OG, torch.float32)
        scale_O = channel_scales(self.weight)
        return to_channels(self.weight, scale_O).float().mul_(scale_O[:, None])

    @torch.no_grad()
    def _watch(self, input: Tensor) -> None:
        low, high = torch.aminmax(input.float())
        share = torch.where(self.batches > 0, _MOMENTUM, 1.0)
        self.low.lerp_(low, share)
        self.high.lerp_(high, share)
        self.batches += 1


def quantized(linear: nn.Linear, config: QuantizationConfig) -> QuantizedLinear:
    """The layer of a config with the integers of another's weights, and its bias; of a static one without a range."""
    layer = make(linear, config)
    layer.fill(linear.weight)
    layer.bias = linear.bias
    return layer.train(linear.training)


def rounded(x: Tensor, scale: Tensor) -> Tensor:
    """x at the nearest multiple of the scale, in the dtype of x, with the gradient of x."""
    result: Tensor = _straight_through(x, (torch.round(x.detach() / scale) * scale).to(x.dtype))
    return result


def _straight_through(x: Tensor, value: Tensor) -> Tensor:
    """The value with the gradient of x."""
    result: Tensor = _StraightThrough.apply(x, value)  # type: ignore[no-untyped-call]
    return result


class _StraightThrough(torch.autograd.Function):
    # And not x + (value - x).detach(), which rounds the value a second time.
    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor) -> Tensor:
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None
