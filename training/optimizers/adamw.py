"""AdamW (Loshchilov & Hutter 2019, algorithm 2), by torch's fused kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from training.optimizers.part import Part


class AdamW(Part):
    """The numbers and the state of `torch.optim.AdamW`; see `Part` for what a skipped step does."""

    def __init__(
        self, groups: list[dict[str, Any]], lr: float, betas: tuple[float, float], epsilon: float, weight_decay: float
    ) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": epsilon, "weight_decay": weight_decay})

    def new_state(self, parameter: Tensor) -> dict[str, Tensor]:
        """Both moments, and the number of steps."""
        return {
            "step": torch.zeros((), device=parameter.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }

    @torch.no_grad()
    def step(self, skip: Tensor | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            weights, gradients, means, squares, steps = self.ready(group, "exp_avg", "exp_avg_sq", "step")
            adamw(
                weights,
                gradients,
                means,
                squares,
                [],
                steps,
                fused=True,
                found_inf=None if skip is None else skip.float(),
                amsgrad=False,
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=False,
            )
