"""Linear layers that multiply by integers.

Each keeps its integers and scales in buffers, its bias as it was, and gives the weights that they stand for as
`weight`. Where a gradient for the input is wanted it multiplies by those. Shape suffixes: N rows (tokens), I inputs, O
outputs, G groups of inputs.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.compression.quantization.arithmetic import (
    channel_scales,
    from_groups,
    group_of,
    group_scales,
    pack,
    range_scale,
    row_scales,
    to_channels,
    to_groups,
    unpack,
)
from training.compression.quantization.config import QuantizationConfig

_FEW_ROWS = 64
"""Up to so many rows the CPU kernels that expand weights on the fly are faster than expanding them all before; a fourth
of them for int8 by groups, which takes two products."""
_CHUNK = 1 << 18
"""Numbers of a product that are scaled while they lie in the cache."""


class QuantizedLinear(nn.Module):
    """What the layers have in common; `make` gives the one of a config with undefined numbers on the meta device."""

    def __init__(self, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__()
        self.in_features, self.out_features = inputs, outputs
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None

    @property
    def weight(self) -> Tensor:
        """The weights (O, I), float32, that the integers stand for."""
        raise NotImplementedError

    def fill(self, weight_OI: Tensor) -> None:
        """Take the integers of these weights."""
        raise NotImplementedError

    def product(self, x_NI: Tensor) -> Tensor:
        """x times the weights, plus the bias, (N, O), in the dtype of x."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """The product (..., O) in the dtype of autocast, or else of the input."""
        device = x.device.type
        if torch.is_autocast_enabled(device):
            x = x.to(torch.get_autocast_dtype(device))
        with torch.autocast(device, enabled=False):
            if torch.is_grad_enabled() and x.requires_grad:
                return F.linear(x, self.weight.to(x.dtype), self._bias(x.dtype))
            return self.product(x.reshape(-1, self.in_features)).view(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """The shape."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"

    def _bias(self, dtype: torch.dtype) -> Tensor | None:
        return None if self.bias is None else self.bias.to(dtype)


class DynamicLinear(QuantizedLinear):
    """int8 weights by output channel and int8 activations by row, whose scales are found as they come."""

    integers_OI: Tensor
    scale_O: Tensor

    def __init__(self, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__(inputs, outputs, bias)
        self.register_buffer("integers_OI", torch.empty(outputs, inputs, dtype=torch.int8))
        self.register_buffer("scale_O", torch.empty(outputs))

    @property
    def weight(self) -> Tensor:
        """The weights (O, I), float32, that the integers stand for."""
        return self.integers_OI.float().mul_(self.scale_O[:, None])

    def fill(self, weight_OI: Tensor) -> None:
        """Take the integers of these weights."""
        self.scale_O = channel_scales(weight_OI)
        self.integers_OI = to_channels(weight_OI, self.scale_O)

    def product(self, x_NI: Tensor) -> Tensor:
        """x times the weights, plus the bias, (N, O), in the dtype of x; all scaling is done in float32."""
        rows = max(16, _CHUNK // self.out_features)
        if x_NI.device.type != "cpu" or len(x_NI) <= rows:
            return self._chunk(x_NI).to(x_NI.dtype)
        y_NO = x_NI.new_empty(len(x_NI), self.out_features)
        for x, y in zip(x_NI.split(rows), y_NO.split(rows), strict=True):
            y.copy_(self._chunk(x))
        return y_NO

    def _chunk(self, x_NI: Tensor) -> Tensor:
        scale_N1 = row_scales(x_NI)
        integers_NI = (x_NI / scale_N1).round_().to(torch.int8)
        y_NO = integer_product(integers_NI, self.integers_OI).float().mul_(scale_N1)
        return y_NO.mul_(self.scale_O) if self.bias is None else torch.addcmul(self.bias, y_NO, self.scale_O)


class StaticLinear(DynamicLinear):
    """int8 weights by output channel, and int8 activations by one scale and zero point, which a calibration finds."""

    input_scale: Tensor
    input_zero: Tensor

    def __init__(self, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__(inputs, outputs, bias)
        for name in ("input_scale", "input_zero"):
            self.register_buffer(name, torch.empty(()))
        self._affine: tuple[float, float, Tensor, Tensor] | None = None

    def set_range(self, low: Tensor, high: Tensor) -> None:
        """Take the range of the activations."""
        self.input_scale, self.input_zero = range_scale(low, high)
        self._affine = None

    def _chunk(self, x_NI: Tensor) -> Tensor:
        scale, zero, factor_O, shift_O = self._constants(x_NI.device)
        integers_NI = (x_NI.float() * (1 / scale)).add_(zero).round_().clamp_(-128, 127).to(torch.int8)
        return torch.addcmul(shift_O, integer_product(integers_NI, self.integers_OI).float(), factor_O)

    def _constants(self, device: torch.device) -> tuple[float, float, Tensor, Tensor]:
        """Scale and zero point, and by channel what a sum is multiplied by and what is added: with the bias, minus the
        share of the zero point."""
        if self._affine is None or self._affine[2].device != device:
            factor_O = self.scale_O * self.input_scale
            shift_O = -self.integers_OI.sum(1, dtype=torch.int32) * self.input_zero * factor_O
            if self.bias is not None:
                shift_O = shift_O + self.bias.detach()
            self._affine = float(self.input_scale), float(self.input_zero), factor_O, shift_O
        return self._affine


class GroupedLinear(QuantizedLinear):
    """int8 or int4 weights by groups of a row; activations stay what they are.

    On a CPU a few rows are multiplied in bfloat16 by kernels that read the integers; else the weights are expanded.
    """

    integers: Tensor
    scale_OG: Tensor

    def __init__(self, inputs: int, outputs: int, bias: bool, bits: int, group_size: int) -> None:
        super().__init__(inputs, outputs, bias)
        assert bits in (4, 8)
        assert bits == 8 or inputs % 2 == 0
        self.bits, self.group = bits, group_of(inputs, group_size)
        packed = (torch.uint8, inputs // 2) if bits == 4 else (torch.int8, inputs)
        self.register_buffer("integers", torch.empty(outputs, packed[1], dtype=packed[0]))
        self.register_buffer("scale_OG", torch.empty(outputs, inputs // self.group, dtype=torch.bfloat16))
        self._laid_out: tuple[Tensor, Tensor] | None = None

    @property
    def weight(self) -> Tensor:
        """The weights (O, I), float32, that the integers stand for."""
        return self._expanded(torch.float32)

    def fill(self, weight_OI: Tensor) -> None:
        """Take the integers of these weights."""
        self.scale_OG = group_scales(weight_OI, self.bits, self.group)
        integers_OI = to_groups(weight_OI, self.scale_OG, self.bits)
        self.integers = pack(integers_OI) if self.bits == 4 else integers_OI
        self._laid_out = None

    def product(self, x_NI: Tensor) -> Tensor:
        """x times the weights, plus the bias, (N, O), in the dtype of x."""
        if x_NI.device.type == "cpu" and len(x_NI) <= self._most_rows():
            y_NO = self._read(x_NI.to(torch.bfloat16).contiguous()).to(x_NI.dtype)
            return y_NO if self.bias is None else y_NO.add_(self.bias)
        return F.linear(x_NI, self._expanded(x_NI.dtype), self._bias(x_NI.dtype))

    def _expanded(self, dtype: torch.dtype) -> Tensor:
        integers_OI = unpack(self.integers) if self.bits == 4 else self.integers
        return from_groups(integers_OI, self.scale_OG, dtype)

    def _most_rows(self) -> int:
        """For how many rows a kernel that reads the integers is of use."""
        if self.bits == 8 and self.group == self.in_features:
            return _FEW_ROWS if self.in_features % 4 == 0 else 0
        if self.group not in (32, 64, 128, 256) or self.out_features % 16:
            return 0
        return _FEW_ROWS if self.bits == 4 else _FEW_ROWS // 4

    def _read(self, x_NI: Tensor) -> Tensor:
        operations: Any = torch.ops.aten
        y_NO: Tensor
        if self.bits == 8 and self.group == self.in_features:
            y_NO = operations._weight_int8pack_mm(x_NI, self.integers, self.scale_OG[:, 0])
            return y_NO
        if self._laid_out is None:
            nibbles, scales = self._nibbles()
            self._laid_out = operations._convert_weight_to_int4pack_for_cpu(nibbles, 2), scales
        y_NO = operations._weight_int4pack_mm_for_cpu(x_NI, self._laid_out[0], self.group, self._laid_out[1])
        return y_NO if self.bits == 4 else y_NO[:, : self.out_features] + y_NO[:, self.out_features :]

    def _nibbles(self) -> tuple[Tensor, Tensor]:
        """What the kernel for four bits lays out in its own way, beside the numbers of the file: int32 in [0, 15], and
        for each group and output a scale and an offset, of (n - 8) scale + offset.

        There is no kernel for int8 by groups: a byte w is 16 (h - 8) + n, and the matrix of the h stands over that of
        the n.
        """
        scale_GO = self.scale_OG.t()
        if self.bits == 4:
            nibbles_OI = unpack(self.integers).to(torch.int32) + 8
            return nibbles_OI, torch.stack([scale_GO, torch.zeros_like(scale_GO)], dim=2).contiguous()
        bytes_OI = self.integers.to(torch.int32) + 128
        high = torch.stack([scale_GO * 16, torch.zeros_like(scale_GO)], dim=2)
        low = torch.stack([scale_GO, scale_GO * 8], dim=2)
        return torch.cat([bytes_OI >> 4, bytes_OI & 15]), torch.cat([high, low], dim=1).contiguous()


def integer_product(x_NI: Tensor, weight_OI: Tensor) -> Tensor:
    """The int32 product (N, O) of int8 rows and weights.

    CUDA's kernel wants more than 16 rows and widths that are multiples of 8; what does not fit is padded, or multiplied
    in float32 in pieces of 512, whose sums are exact.
    """
    rows, (outputs, inputs) = len(x_NI), weight_OI.shape
    if x_NI.device.type != "cuda":
        return torch._int_mm(x_NI, weight_OI.t())
    if inputs % 8 or outputs % 8:
        pieces = zip(x_NI.float().split(512, 1), weight_OI.float().split(512, 1), strict=True)
        y_NO = torch.zeros(rows, outputs, dtype=torch.int32, device=x_NI.device)
        for x, weight in pieces:
            y_NO += (x @ weight.t()).to(torch.int32)
        return y_NO
    padded_NI = F.pad(x_NI, (0, 0, 0, 32 - rows)) if rows < 32 else x_NI
    return torch._int_mm(padded_NI.contiguous(), weight_OI.t())[:rows]


def make(linear: nn.Module, config: QuantizationConfig) -> QuantizedLinear:
    """The layer of a config in the shape of another one, on the meta device."""
    inputs, outputs = int(linear.in_features), int(linear.out_features)  # type: ignore[arg-type]
    with torch.device("meta"):
        if config.by_group:
            return GroupedLinear(inputs, outputs, linear.bias is not None, config.bits, config.group_size)
        kind = StaticLinear if config.method == "static_int8" else DynamicLinear
        return kind(inputs, outputs, linear.bias is not None)
