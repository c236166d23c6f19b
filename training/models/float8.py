"""Linear layers whose products run in float8, for `precision: fp8`.

Each operand is scaled as a whole so that its largest value is the largest of its format, anew for every product
("dynamic, per tensor"): e4m3 for inputs and weights, e5m2 for gradients (Micikevicius et al. 2022, section 3.1).
Weights stay what they are and state dicts do not change. Shape suffixes: N rows (tokens), I in, O out.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_MULTIPLE = 16
"""The kernels of CUDA take operands whose rows and columns are multiples of this."""


def use_float8(model: nn.Module) -> int:
    """Let the linear layers of `model.blocks` multiply in float8 and return how many do.

    Layers with a width that is no multiple of 16 stay as they are. The parameters stay the same objects.
    """
    changed = 0
    for parent in model.get_submodule("blocks").modules():
        for name, child in parent.named_children():
            if type(child) is nn.Linear and not (child.in_features % _MULTIPLE or child.out_features % _MULTIPLE):
                setattr(parent, name, Float8Linear.of(child))
                changed += 1
    return changed


class Float8Linear(nn.Linear):
    """A linear layer with float8 products; an input whose rows are no multiple of 16 is multiplied as ever."""

    @classmethod
    def of(cls, linear: nn.Linear) -> Float8Linear:
        """Make one that shares the parameters of another layer."""
        with torch.device("meta"):
            layer = cls(linear.in_features, linear.out_features, bias=linear.bias is not None)
        layer.weight, layer.bias = linear.weight, linear.bias
        return layer.train(linear.training)

    def forward(self, input: Tensor) -> Tensor:
        """The product (..., O) in the dtype of autocast, or else of the input."""
        if input.numel() // self.in_features % _MULTIPLE:
            return F.linear(input, self.weight, self.bias)
        device = input.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else input.dtype
        y_NO: Tensor = _Product.apply(input.reshape(-1, self.in_features).to(dtype), self.weight)  # type: ignore[no-untyped-call]
        y = y_NO.view(*input.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias.to(dtype)


class _Product(torch.autograd.Function):
    """x w' in float8. The operands are kept as they come, and quantised anew for the backward pass.

    The backward products do without the faster, less exact sums in the tensor cores.
    """

    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, weight_OI: Tensor) -> Tensor:
        ctx.save_for_backward(x_NI, weight_OI)
        x8, x_scale = quantized(x_NI, torch.float8_e4m3fn)
        weight8, weight_scale = quantized(weight_OI, torch.float8_e4m3fn)
        return _scaled_product(x8, weight8, x_scale, weight_scale, x_NI.dtype, use_fast_accum=True)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x_NI, weight_OI = ctx.saved_tensors
        gradient8, gradient_scale = quantized(gradients[0], torch.float8_e5m2)
        x_gradient = weight_gradient = None
        if ctx.needs_input_grad[0]:
            weight8, scale = quantized(weight_OI, torch.float8_e4m3fn)
            x_gradient = _scaled_product(gradient8, weight8.t(), gradient_scale, scale, x_NI.dtype)
        if ctx.needs_input_grad[1]:
            x8, scale = quantized(x_NI, torch.float8_e4m3fn)
            weight_gradient = _scaled_product(gradient8.t(), x8.t(), gradient_scale, scale, x_NI.dtype)
            weight_gradient = weight_gradient.to(weight_OI.dtype)
        return x_gradient, weight_gradient


def quantized(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The tensor in a float8 format and the float32 scalar by which it is to be multiplied."""
    largest = torch.finfo(dtype).max
    # Where all is 0 the scale does not matter, but must not be 0.
    scale = (x.detach().abs().amax().float() / largest).clamp(min=torch.finfo(torch.float32).tiny)
    return (x.float() / scale).clamp(-largest, largest).to(dtype), scale


def _scaled_product(
    a: Tensor, b: Tensor, a_scale: Tensor, b_scale: Tensor, dtype: torch.dtype, use_fast_accum: bool = False
) -> Tensor:
    """a b' of float8 matrices (rows, inner); the kernels want both with the inner dimension contiguous."""
    return torch._scaled_mm(
        a.contiguous(),
        b.contiguous().t(),
        scale_a=a_scale,
        scale_b=b_scale,
        out_dtype=dtype,
        use_fast_accum=use_fast_accum,
    )
