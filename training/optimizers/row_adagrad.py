"""Adagrad with one accumulator a row, for embeddings of which a step touches few rows."""

from __future__ import annotations

import torch
from torch import Tensor

from training.optimizers.part import Part
from training.optimizers.shards import row_zeros


class RowAdagrad(Part):
    """A row's step is its gradient over the root of the summed mean squares of its gradients.

    That is Duchi et al. 2011 with the diagonal averaged over the row. Rows without a gradient stay as they are; sparse
    gradients cost only their rows.
    """

    def __init__(self, parameters: list[Tensor], lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    def new_state(self, parameter: Tensor) -> dict[str, Tensor]:
        """The summed mean square of each row's gradients."""
        return {"squares": row_zeros(parameter)}

    @torch.no_grad()
    def step(self, skip: Tensor | None = None) -> None:  # type: ignore[override]
        """Update the rows that have a gradient."""
        for group in self.param_groups:
            for weight, gradient, squares in zip(*self.ready(group, "squares"), strict=True):
                _update(weight, gradient, squares, group["lr"], skip)


def _update(weight: Tensor, gradient: Tensor, squares: Tensor, lr: float, skip: Tensor | None) -> None:
    rows: Tensor | slice = slice(None)
    if gradient.is_sparse:
        gradient = gradient.coalesce()
        rows, gradient = gradient.indices()[0], gradient.values()
    if skip is not None:
        gradient = gradient.masked_fill(skip, 0.0)
    summed = squares[rows] + gradient.square().mean(1)
    squares[rows] = summed
    weight[rows] -= lr * gradient / (summed.sqrt() + 1e-10).unsqueeze(1)
