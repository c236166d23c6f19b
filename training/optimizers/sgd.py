"""Stochastic gradient descent with Nesterov momentum (Sutskever et al. 2013), by torch's fused kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.sgd import sgd

from training.optimizers.part import Part, kept


class SGD(Part):
    """The numbers of `torch.optim.SGD(nesterov=True)`, but for weight decay, which stays out of the momentum.

    It is decoupled, as in Loshchilov & Hutter 2019, algorithm 1: weights shrink by `lr * weight_decay` in each step.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    def new_state(self, parameter: Tensor) -> dict[str, Tensor]:
        """The momentum; from 0, the first step is what torch makes of none."""
        return {"momentum": torch.zeros_like(parameter)}

    @torch.no_grad()
    def step(self, skip: Tensor | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            weights, gradients, momenta = self.ready(group, "momentum")
            if group["weight_decay"]:
                torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"] * kept(skip))
            sgd(
                weights,
                gradients,
                list(momenta),
                fused=True,
                found_inf=None if skip is None else skip.float(),
                weight_decay=0.0,
                momentum=group["momentum"],
                lr=group["lr"],
                dampening=0.0,
                nesterov=group["momentum"] > 0,
                maximize=False,
            )
