"""Products of a few rows with a matrix on a CPU, by the layout in which its memory is read fastest.

torch's product of a single row with a matrix (N, K) that lies row by row reaches little more than half of the memory's
bandwidth, and one of 2 to 64 rows takes up to four times as long as oneDNN's with weights in its own layout (2 threads
of an AMD EPYC, 0.25 to 38 million weights).

Shape suffixes: M rows, K and N widths.
"""

from __future__ import annotations

import platform
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_ROWS = 16
"""For how many rows oneDNN chooses its layout."""


class ReadingLinear(nn.Linear):
    """A linear layer for inference on a CPU, made of another by `lay_out`; its values are the same.

    In float32 the matrix lies column by column, which serves one row; for several rows there is a second copy in
    oneDNN's layout, made when they first come. In bfloat16 there is that layout alone, beside the plain weight.
    """

    _packed: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(..., N) of (..., K)."""
        single = x.numel() == self.in_features
        if (single and x.dtype == torch.float32) or x.dtype != self.weight.dtype or torch.is_grad_enabled():
            return F.linear(x, self.weight, self.bias)
        if self._packed is None:
            reorder: Any = torch.ops.mkldnn._reorder_linear_weight
            rows = _ROWS if x.dtype == torch.float32 else 1
            self._packed = reorder(self.weight.detach().contiguous(), rows)
        product: Any = torch.ops.mkldnn._linear_pointwise
        result: Tensor = product(x.flatten(0, -2), self._packed, self.bias, "none", [], "")
        return result.view(*x.shape[:-1], self.out_features)


def lay_out(model: nn.Module) -> None:
    """Exchange the plain linear layers of a model that is for inference alone, in place, where that is of use.

    What an embedding shares with a layer is copied. Layers that something stands beside (adapters, integers) are left.
    """
    parameter = next(model.parameters(), None)
    if parameter is None or parameter.device.type != "cpu" or not _available():
        return
    if parameter.dtype not in (torch.float32, torch.bfloat16):
        return
    made: dict[int, ReadingLinear] = {}
    for owner in list(model.modules()):
        for name, layer in list(owner.named_children()):
            if type(layer) is nn.Linear:
                if id(layer) not in made:
                    made[id(layer)] = _laid_out(layer)
                setattr(owner, name, made[id(layer)])


def _laid_out(layer: nn.Linear) -> ReadingLinear:
    result = ReadingLinear(layer.in_features, layer.out_features, bias=False, device="meta")
    weight = layer.weight.detach()
    if weight.dtype == torch.float32:
        weight = weight.t().contiguous().t()
    result.weight = nn.Parameter(weight, requires_grad=False)
    result.bias = layer.bias
    return result.train(layer.training)


def _available() -> bool:
    return (
        torch.backends.mkldnn.is_available()
        and platform.machine().lower() in ("x86_64", "amd64")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )
