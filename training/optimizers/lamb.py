"""LAMB (You et al. 2020, Large Batch Optimization for Deep Learning, algorithm 2)."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from training.optimizers.adamw import AdamW
from training.optimizers.part import kept, unless
from training.optimizers.shards import groups, local_rows


class Lamb(AdamW):
    """AdamW's update of each tensor, scaled to the norm of the tensor, so that large batches bear large rates.

    Settings and state are AdamW's. Vectors (gains and biases) keep AdamW's update, as in the code that ALBERT was
    published with. `stacked`: the rows of each matrix where several lie in one parameter; each has a norm of its own.
    """

    def __init__(
        self,
        settings: list[dict[str, Any]],
        lr: float,
        betas: tuple[float, float],
        epsilon: float,
        weight_decay: float,
        stacked: dict[Tensor, tuple[int, ...]] | None = None,
    ) -> None:
        super().__init__(settings, lr, betas, epsilon, weight_decay)
        self._stacked = stacked or {}

    @torch.no_grad()
    def step(self, skip: Tensor | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        keep = kept(skip)
        for group in self.param_groups:
            weights, gradients, means, squares, steps = map(list, self.ready(group, "exp_avg", "exp_avg_sq", "step"))
            if not weights:
                continue
            beta1, beta2 = group["betas"]
            # A mean of the momentum with itself is the momentum: so it stays as it is in a step that is skipped.
            torch._foreach_lerp_(means, unless(skip, gradients, means), 1 - beta1)
            squared = unless(skip, list(torch._foreach_mul(gradients, gradients)), squares)
            torch._foreach_lerp_(squares, squared, 1 - beta2)
            torch._foreach_add_(steps, [torch.as_tensor(keep, device=step.device) for step in steps])
            counts = [step.clamp(min=1.0) for step in steps]  # the first step may be one that is skipped
            updates = list(torch._foreach_div(means, [1 - beta1**count for count in counts]))
            roots = torch._foreach_sqrt(torch._foreach_div(squares, [1 - beta2**count for count in counts]))
            torch._foreach_add_(roots, group["eps"])
            torch._foreach_div_(updates, roots)
            if group["weight_decay"]:
                torch._foreach_add_(updates, weights, alpha=group["weight_decay"])
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            torch._foreach_mul_(*self._scaled(parameters, weights, updates, keep))
            torch._foreach_add_(weights, updates, alpha=-group["lr"])

    def _scaled(
        self, parameters: list[Tensor], weights: list[Tensor], updates: list[Tensor], keep: Tensor | float
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The updates matrix by matrix, as views, and the factor of each."""
        owners: list[Tensor] = []
        matrices: list[Tensor] = []
        parts: list[Tensor] = []
        for parameter, weight, update in zip(parameters, weights, updates, strict=True):
            rows = local_rows(parameter, self._stacked.get(parameter, ()))
            matrices += weight.split(rows) if rows else [weight]
            parts += update.split(rows) if rows else [update]
            owners += [parameter] * (len(rows) or 1)
        return parts, [keep * ratio for ratio in self._ratios(owners, matrices, parts)]

    def _ratios(self, parameters: list[Tensor], weights: list[Tensor], updates: list[Tensor]) -> list[Tensor]:
        """Norm of each tensor over that of its update, float32 scalars; 1 for vectors and where one of them is 0."""
        norms = torch.stack([*torch._foreach_norm(weights), *torch._foreach_norm(updates)]).square()
        for number, parameter in enumerate(parameters):
            # Each process has a part of a sharded tensor; the sum of squares is that of the whole.
            for process_group in groups(parameter):
                for index in (number, number + len(parameters)):
                    dist.all_reduce(norms[index], group=process_group)
        of_weights, of_updates = norms.sqrt().float().view(2, -1)
        ratios = torch.where((of_weights > 0) & (of_updates > 0), of_weights / of_updates, 1.0)
        return [
            ratio if parameter.ndim > 1 else torch.ones_like(ratio)
            for ratio, parameter in zip(ratios.unbind(), parameters, strict=True)
        ]
