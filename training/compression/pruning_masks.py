"""Weights that are zero and stay zero: by magnitude, in the pattern 2:4, at once or more and more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

_PREFIX = "mask/"


def prunable(model: nn.Module) -> dict[str, Tensor]:
    """The matrices of the blocks by name, those of every architecture; one that is shared counts once."""
    return {
        name: parameter for name, parameter in model.named_parameters() if "blocks." in name and parameter.ndim == 2
    }


def magnitude_masks(
    weights: Mapping[str, Tensor], share: float, scope: Literal["global", "layer"]
) -> dict[str, Tensor]:
    """Which weights stay (bool, by name) where this share, rounded to whole weights, goes: those nearest to zero.

    layer: the share of each matrix; global: of all of them together (Han et al. 2015, section 3.2; the ways of
    `torch.nn.utils.prune`).
    """
    if scope == "layer":
        return {name: _largest([weight], share)[0] for name, weight in weights.items()}
    return dict(zip(weights, _largest(list(weights.values()), share), strict=True))


def two_of_four_masks(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of each four weights in a row the two largest stay, of equal ones the first (Mishra et al. 2021, section 3.1).

    Raises ValueError for a matrix whose rows are not a multiple of four long.
    """
    masks = {}
    for name, weight in weights.items():
        if weight.shape[1] % 4:
            raise ValueError(f"{name}: 2:4 needs rows of a multiple of 4 weights, got {weight.shape[1]}")
        fours = weight.detach().abs().reshape(-1, 4)
        chosen = torch.argsort(fours, dim=1, descending=True, stable=True)[:, :2]
        masks[name] = torch.zeros_like(fours, dtype=torch.bool).scatter_(1, chosen, True).view_as(weight)
    return masks


def cubic_share(first: float, last: float, step: int, end: int) -> float:
    """Share of zeros behind update `step` (from 0) on the way from `first` to `last`, which `end` has reached.

    Zhu & Gupta 2017, equation 1: zeros come fast at first, while there is much to spare, and slowly at the end.
    """
    if step >= end:
        return last
    return last + (first - last) * (1 - step / end) ** 3


class Masks:
    """Keeps zeros of a model in training. `state_tensors` are what a stopped job goes on from."""

    def __init__(self, model: nn.Module, masks: Mapping[str, Tensor]) -> None:
        self._weights = prunable(model)
        self._masks = dict(masks)
        self.apply()

    @classmethod
    def of_zeros(cls, model: nn.Module) -> Masks:
        """Keep what is zero now."""
        return cls(model, {name: weight.detach() != 0 for name, weight in prunable(model).items()})

    def after_step(self, step: int) -> None:
        """After update number `step` (from 1): the optimiser has moved weights away from zero."""
        self.apply()

    @torch.no_grad()
    def apply(self) -> None:
        """Make zero what is to be."""
        for name, mask in self._masks.items():
            self._weights[name].mul_(mask)

    def state_tensors(self) -> dict[str, Tensor]:
        """The masks as uint8."""
        return {f"{_PREFIX}{name}": mask.to(torch.uint8) for name, mask in self._masks.items()}

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up a copy of what `state_tensors` returned."""
        device = next(iter(self._weights.values())).device
        self._masks = {
            name.removeprefix(_PREFIX): mask.to(device, torch.bool)
            for name, mask in tensors.items()
            if name.startswith(_PREFIX)
        }
        self.apply()


class GradualMasks(Masks):
    """Zeros that become more along `cubic_share`; a weight that is zero stays among the smallest, and so stays zero."""

    def __init__(self, model: nn.Module, share: float, scope: Literal["global", "layer"], end: int, every: int) -> None:
        super().__init__(model, {})
        self._share, self._scope, self._end, self._every = share, scope, end, every
        total = sum(weight.numel() for weight in self._weights.values())
        self._first = sum(int((weight == 0).sum()) for weight in self._weights.values()) / max(1, total)

    def after_step(self, step: int) -> None:
        """Every so many updates, and at the last of them, choose anew; keep zeros in between."""
        if step == self._end or (step < self._end and step % self._every == 0):
            share = max(self._first, cubic_share(self._first, self._share, step, self._end))
            self._masks = magnitude_masks(self._weights, share, self._scope)
        self.apply()


def zero_share(model: nn.Module) -> float:
    """Share of the weights in the matrices of the blocks that are zero."""
    weights = list(prunable(model).values())
    total = sum(weight.numel() for weight in weights)
    return sum(int((weight == 0).sum()) for weight in weights) / max(1, total)


@torch.no_grad()
def _largest(weights: Sequence[Tensor], share: float) -> list[Tensor]:
    """Masks of all weights together without this share of the smallest; of equal ones the first goes."""
    flat = torch.cat([weight.detach().abs().flatten() for weight in weights])
    mask = torch.ones_like(flat, dtype=torch.bool)
    count = round(share * flat.numel())
    if count:
        mask[_smallest(flat, count)] = False
    sizes = [weight.numel() for weight in weights]
    return [part.view_as(weight) for part, weight in zip(mask.split(sizes), weights, strict=True)]


def _smallest(flat: Tensor, count: int) -> Any:
    """Indices of the `count` smallest: all below a threshold, and as many at it as are wanted."""
    threshold = torch.kthvalue(flat, count).values
    below = (flat < threshold).nonzero().flatten()
    at = (flat == threshold).nonzero().flatten()[: count - len(below)]
    return torch.cat([below, at])
