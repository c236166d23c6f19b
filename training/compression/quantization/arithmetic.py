"""Floats to integers and back, and two integers of four bits in a byte.

Scales are symmetric about zero, so that a weight which pruning has set to zero stays zero. Shape suffixes: O outputs, I
inputs, G groups of inputs, P inputs of a group, N rows (tokens).
"""

from __future__ import annotations

import torch
from torch import Tensor

SHRINKAGES = (1.0, 0.95, 0.9, 0.85, 0.8)
"""Shares of the range of a group that scales of four bits are tried with."""

_SMALLEST = 1e-30
"""Least scale: where all is zero it does not matter, but must not be zero."""


def group_of(inputs: int, group_size: int) -> int:
    """How many weights of a row of this length share a scale."""
    return group_size if group_size and inputs % group_size == 0 else inputs


def channel_scales(weight_OI: Tensor) -> Tensor:
    """float32 (O): what an int8 in [-127, 127] is multiplied by, so that the largest weight of a row is met."""
    return weight_OI.detach().float().abs().amax(1).div_(127).clamp_(min=_SMALLEST)


def group_scales(weight_OI: Tensor, bits: int, group_size: int) -> Tensor:
    """bfloat16 (O, G): what the integers of a group are multiplied by.

    int8 in [-127, 127] meets the largest weight. int4 in [-8, 7] has 8 steps on the side of the largest weight, whose
    sign the scale has; of ranges a little smaller the one with the least squared error is taken. bfloat16, because the
    kernels of CPUs want it; the integers are rounded with these scales and not with more exact ones.
    """
    weight_OGP = weight_OI.detach().float().unflatten(1, (-1, group_of(weight_OI.shape[1], group_size)))
    if bits == 8:
        return (weight_OGP.abs().amax(2) / 127).clamp_(min=_SMALLEST).to(torch.bfloat16)
    low_OG, high_OG = torch.aminmax(weight_OGP, dim=2)
    extreme_OG = torch.where(-low_OG >= high_OG, low_OG, high_OG) / -8
    extreme_OG = torch.where(extreme_OG.abs() < _SMALLEST, _SMALLEST, extreme_OG)
    best_OG = extreme_OG.to(torch.bfloat16)
    least_OG = torch.full_like(extreme_OG, float("inf"))
    for share in SHRINKAGES:
        scale_OG = (extreme_OG * share).to(torch.bfloat16)
        step_OG1 = scale_OG.float()[..., None]
        error_OG = torch.round(weight_OGP / step_OG1).clamp_(-8, 7).mul_(step_OG1).sub_(weight_OGP).square_().sum(2)
        better_OG = error_OG < least_OG
        best_OG, least_OG = torch.where(better_OG, scale_OG, best_OG), torch.where(better_OG, error_OG, least_OG)
    return best_OG


def to_channels(weight_OI: Tensor, scale_O: Tensor) -> Tensor:
    """int8 (O, I) of weights by their scales (O)."""
    return torch.round(weight_OI.detach().float() / scale_O[:, None]).clamp_(-127, 127).to(torch.int8)


def to_groups(weight_OI: Tensor, scale_OG: Tensor, bits: int) -> Tensor:
    """int8 (O, I), with `bits=4` in [-8, 7], of weights by the scales (O, G) of their groups."""
    weight_OGP = weight_OI.detach().float().unflatten(1, (scale_OG.shape[1], -1))
    lowest, highest = (-127, 127) if bits == 8 else (-8, 7)
    integers_OGP = torch.round(weight_OGP / scale_OG.float()[..., None]).clamp_(lowest, highest)
    return integers_OGP.to(torch.int8).flatten(1)


def from_groups(integers_OI: Tensor, scale_OG: Tensor, dtype: torch.dtype) -> Tensor:
    """The weights (O, I) that integers and the scales of their groups stand for."""
    integers_OGP = integers_OI.to(dtype).unflatten(1, (scale_OG.shape[1], -1))
    return integers_OGP.mul_(scale_OG.to(dtype)[..., None]).flatten(1)


def pack(integers_OI: Tensor) -> Tensor:
    """uint8 (O, I / 2): neighbours in [-8, 7] plus 8, the first of a pair in the lower half of the byte; I is even."""
    nibbles_OI = (integers_OI + 8).to(torch.uint8)
    return nibbles_OI[:, ::2] | (nibbles_OI[:, 1::2] << 4)


def unpack(bytes_OJ: Tensor) -> Tensor:
    """The int8 (O, I) in [-8, 7] that `pack` made bytes (O, I / 2) of."""
    pairs_OJ2 = torch.stack([bytes_OJ & 15, bytes_OJ >> 4], dim=2)
    return pairs_OJ2.flatten(1).to(torch.int8) - 8


def row_scales(x_NI: Tensor) -> Tensor:
    """float32 (N, 1): what the int8 of each row of activations are multiplied by."""
    return x_NI.abs().amax(1, keepdim=True).float().mul_(1 / 127).clamp_(min=_SMALLEST)


def range_scale(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and zero point (float32, the latter whole) of activations in [low, high] as int8 in [-128, 127].

    The range is widened to hold 0, which is then met exactly (Jacob et al. 2018, section 2.1).
    """
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    scale = ((high - low) / 255).clamp(min=_SMALLEST)
    return scale, torch.round(-128 - low / scale).clamp(-128, 127)
