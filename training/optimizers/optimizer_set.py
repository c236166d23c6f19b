"""Several optimisers as one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from training.optimizers.part import Part
from training.optimizers.row_adagrad import RowAdagrad
from training.optimizers.shards import check_alike, groups, like, local


class OptimizerSet:
    """Several optimisers that step as one, with learning rates that follow one factor.

    `parts` cover each parameter of `model` once; a group's learning rate on construction is its peak.
    """

    def __init__(self, model: nn.Module, parts: Sequence[Part]) -> None:
        self._parts = parts
        self._names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
        self._peaks = [[group["lr"] for group in part.param_groups] for part in parts]
        # Adagrad's steps do not depend on the scale of the gradient: what it trains has no need of clipping.
        self._clipped = [p for part in parts if not isinstance(part, RowAdagrad) for p in _parameters(part)]

    def clip(self, max_norm: float) -> Tensor:
        """Scale the gradients so that their norm is `max_norm` at most, and return the norm before; 0 only measures.

        The norm is that of all gradients as one vector, over all shards too, without those of the bigram embedding: a
        float32 scalar on their device, not finite where one of them is not. Nothing waits for the device.
        """
        parameters = [parameter for parameter in self._clipped if parameter.grad is not None]
        norm = _norm([parameter.grad for parameter in parameters if parameter.grad is not None])
        if max_norm:
            gradients = [local(parameter.grad) for parameter in parameters if parameter.grad is not None]
            torch._foreach_mul_(gradients, (max_norm / (norm + 1e-6)).clamp(max=1.0))
        return norm

    def step(self, factor: float, skip: Tensor | None = None) -> None:
        """Update every parameter at `factor` of its peak learning rate.

        Where `skip`, a boolean scalar on the parameters' device, is true, no weight and no state changes. Nothing waits
        for the device to know. The gradients may then hold NaN or infinities.
        """
        for part, peaks in zip(self._parts, self._peaks, strict=True):
            for group, peak in zip(part.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
            part.step(skip)

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for part in self._parts:
            part.zero_grad(set_to_none=True)

    def state_tensors(self) -> dict[str, Tensor]:
        """The state of every parameter as `<parameter name>/<key>`, from before the first step on; DTensors as such."""
        return {
            f"{self._names[parameter]}/{key}": tensor
            for part in self._parts
            for parameter, state in part.state.items()
            for key, tensor in state.items()
        }

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take up a copy of what `state_tensors` returned; whole tensors and DTensors serve parameters of either kind.

        Raises ValueError naming a tensor that is missing, left over, or of another shape.
        """
        check_alike(self.state_tensors(), tensors, "optimiser state")
        for part in self._parts:
            for parameter, state in part.state.items():
                for key in state:
                    state[key] = like(tensors[f"{self._names[parameter]}/{key}"], parameter)


def _parameters(part: Part) -> list[Tensor]:
    return [parameter for group in part.param_groups for parameter in group["params"]]


def _norm(gradients: list[Tensor]) -> Tensor:
    """The norm of tensors as one vector; the squares of those in shards are summed over the processes."""
    by_groups: dict[tuple[dist.ProcessGroup, ...], list[Tensor]] = {}
    for gradient in gradients:
        by_groups.setdefault(tuple(groups(gradient)), []).append(local(gradient))
    norms = []
    for over, shares in by_groups.items():
        norm = torch.stack(torch._foreach_norm(shares)).norm()
        if over:
            squares = norm.square()
            for group in over:
                dist.all_reduce(squares, group=group)
            norm = squares.sqrt()
        norms.append(norm)
    return norms[0] if len(norms) == 1 else torch.stack(norms).norm()
