"""Lion (Chen et al. 2023, Symbolic Discovery of Optimization Algorithms, algorithm 2)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from training.optimizers.part import Part, kept, unless


class Lion(Part):
    """Steps of one size, by the sign of a mean of gradient and momentum; one state tensor instead of AdamW's two."""

    def __init__(
        self, groups: list[dict[str, Any]], lr: float, betas: tuple[float, float], weight_decay: float
    ) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    def new_state(self, parameter: Tensor) -> dict[str, Tensor]:
        """The momentum."""
        return {"momentum": torch.zeros_like(parameter)}

    @torch.no_grad()
    def step(self, skip: Tensor | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        keep = kept(skip)
        for group in self.param_groups:
            weights, gradients, momenta = self.ready(group, "momentum")
            if not weights:
                continue
            # A mean of the momentum with itself is the momentum: so it stays as it is in a step that is skipped.
            gradients = unless(skip, gradients, momenta)
            updates = torch._foreach_lerp(momenta, gradients, 1 - group["betas"][0])
            torch._foreach_sign_(updates)
            torch._foreach_mul_(updates, keep)
            if group["weight_decay"]:
                torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"] * keep)
            torch._foreach_add_(weights, updates, alpha=-group["lr"])
            torch._foreach_lerp_(momenta, gradients, 1 - group["betas"][1])
