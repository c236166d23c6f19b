"""Products of a few rows with a matrix on a CPU, by the layout in which its memory is read fastest.

A single row has a kernel of ours where Numba is installed (`kernels.py`). For 2 to 64 rows oneDNN with weights in its
own layout takes down to a quarter of the time of torch's product of plain ones (2 threads of an AMD EPYC, 0.25 to 38
million weights).
"""

from __future__ import annotations

import platform
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from training.generation.kernels import RowProduct

_ROWS = 16
"""For how many rows oneDNN chooses its layout of float32."""


class ReadingLinear(nn.Linear):
    """A linear layer for inference on a CPU, made of another by `lay_out`; its values are the same.

    The weights lie as they did; a second copy in oneDNN's layout is made when several rows first come at once. They
    must not be exchanged afterwards.
    """

    _row: RowProduct | None = None
    _packed: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(..., N) of (..., K)."""
        if x.dtype != self.weight.dtype or torch.is_grad_enabled():
            return F.linear(x, self.weight, self.bias)
        row_product = _row_product() if x.numel() == self.in_features else None
        if row_product is not None:
            if self._row is None:
                self._row = row_product(self.weight, self.bias)
            return self._row(x).view(*x.shape[:-1], self.out_features)
        if not _packs():
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

    Layers that something stands beside (adapters, integers) are left.
    """
    parameter = next(model.parameters(), None)
    if parameter is None or parameter.device.type != "cpu":
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
    result.weight = layer.weight
    result.bias = layer.bias
    return result.train(layer.training)


@cache
def _row_product() -> type[RowProduct] | None:
    """The kernel of one row; None without Numba, which training alone does not need."""
    try:
        from training.generation.kernels import RowProduct
    except ImportError:
        return None
    return RowProduct


@cache
def _packs() -> bool:
    """Whether there is oneDNN's layout of weights, in the torch that is installed, on this kind of processor."""
    return (
        torch.backends.mkldnn.is_available()
        and platform.machine().lower() in ("x86_64", "amd64")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )
