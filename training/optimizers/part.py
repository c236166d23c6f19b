"""What all optimisers here have in common: a step that can be called off on the device, on whole tensors or shards."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from training.optimizers.shards import local


class Part(torch.optim.Optimizer):
    """An optimiser of some of the parameters; its state exists from the start.

    `step(skip)` changes no weight and no state where `skip`, a boolean scalar on the parameters' device, is true.
    Nothing waits for the device to know. The gradients may then hold NaN or infinities; `step` may overwrite them.
    """

    def __init__(self, groups: list[dict[str, Any]] | list[Tensor], defaults: dict[str, Any]) -> None:
        super().__init__(groups, defaults)
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter] = self.new_state(parameter)

    def new_state(self, parameter: Tensor) -> dict[str, Tensor]:
        """The state of a parameter before the first step, sharded as it is."""
        raise NotImplementedError

    @torch.no_grad()
    def step(self, skip: Tensor | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        raise NotImplementedError

    def ready(self, group: dict[str, Any], *keys: str) -> tuple[list[Tensor], ...]:
        """This process's shares of the parameters of a group that have a gradient, of the gradients, of the state."""
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        return (
            [local(parameter) for parameter in parameters],
            [local(parameter.grad) for parameter in parameters],
            *([local(self.state[parameter][key]) for parameter in parameters] for key in keys),
        )


def kept(skip: Tensor | None) -> Tensor | float:
    """1 where a step is taken, 0 where it is skipped, as a float32 scalar on the device."""
    return 1.0 if skip is None else 1.0 - skip.float()


def unless(skip: Tensor | None, tensors: list[Tensor], instead: list[Tensor]) -> list[Tensor]:
    """`tensors`, or those of `instead` where the step is skipped."""
    if skip is None:
        return tensors
    return [torch.where(skip, other, tensor) for tensor, other in zip(tensors, instead, strict=True)]
