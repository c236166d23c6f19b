"""Where a token stands: rotary tables and their stretching, ALiBi slopes, positions within documents.

Shape suffixes: B sequences, T tokens, H heads, K head width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from training.config import RopeScaling


def rotary_table(
    context_length: int, head_width: int, theta: float, scaling: RopeScaling | None = None
) -> tuple[Tensor, Tensor]:
    """Cosine and sine (T, K / 2) float32 of position times frequency (RoFormer, Su et al. 2021, equation 15).

    YaRN's temperature is part of them: it multiplies queries and keys alike, and so their products by its square.
    """
    frequency = rotary_frequencies(head_width, theta, scaling)
    angle = torch.outer(torch.arange(context_length, dtype=torch.float64), frequency)
    factor = yarn_temperature(scaling)
    return (factor * angle.cos()).float(), (factor * angle.sin()).float()


def rotary_frequencies(head_width: int, theta: float, scaling: RopeScaling | None = None) -> Tensor:
    """Radians for each position (K / 2,) float64: theta ** (-2 i / K), stretched by `scaling`."""
    if scaling is not None and scaling.name == "ntk":
        # The lowest frequency, theta ** -((K - 2) / K), comes out divided by the factor; the highest stays 1.
        theta *= scaling.factor ** (head_width / max(head_width - 2, 1))
    frequency = theta ** (-torch.arange(0, head_width, 2, dtype=torch.float64) / head_width)
    if scaling is None or scaling.name == "ntk":
        return frequency
    if scaling.name == "linear":
        return frequency / scaling.factor
    kept = _llama3_share(frequency, scaling) if scaling.name == "llama3" else _yarn_share(head_width, theta, scaling)
    return frequency * kept + frequency / scaling.factor * (1 - kept)


def yarn_temperature(scaling: RopeScaling | None) -> float:
    """What queries and keys are multiplied by: 0.1 ln(factor) + 1 for YaRN (Peng et al. 2023, equation 22), else 1."""
    if scaling is None or scaling.name != "yarn" or scaling.factor <= 1:
        return 1.0
    return 0.1 * math.log(scaling.factor) + 1


def _llama3_share(frequency: Tensor, scaling: RopeScaling) -> Tensor:
    """How much of each frequency is kept as it is, by its turns over the original context (Llama 3.1)."""
    turns = scaling.original_context_length * frequency / (2 * math.pi)
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    return ((turns - low) / (high - low)).clamp(0, 1)


def _yarn_share(head_width: int, theta: float, scaling: RopeScaling) -> Tensor:
    """How much of each frequency is kept as it is: a ramp over dimensions (Peng et al. 2023, section 3.2).

    Its ends are the dimensions of beta_fast and beta_slow turns over the original context, rounded outwards.
    """

    def dimension(turns: float) -> float:
        length = scaling.original_context_length / (turns * 2 * math.pi)
        return head_width * math.log(length) / (2 * math.log(theta))

    first = max(math.floor(dimension(scaling.beta_fast)), 0)
    last = min(math.ceil(dimension(scaling.beta_slow)), head_width - 1)
    steps = torch.arange(head_width // 2, dtype=torch.float64) - first
    return 1 - (steps / max(last - first, 1e-3)).clamp(0, 1)


def rotate(x_BHTK: Tensor, cos_TK: Tensor, sin_TK: Tensor) -> Tensor:
    """Turn the pairs (i, i + K / 2) of each head by the angle of their position, in the halves layout of GPT-NeoX."""
    a, b = x_BHTK.chunk(2, dim=-1)
    cos_TK, sin_TK = cos_TK.to(x_BHTK.dtype), sin_TK.to(x_BHTK.dtype)
    return torch.cat((a * cos_TK - b * sin_TK, a * sin_TK + b * cos_TK), dim=-1)


def alibi_slopes(heads: int) -> Tensor:
    """Penalty for each token of distance, by head (H,) float32 (Press et al. 2022, section 3).

    A geometric series from 2 ** (-8 / H) to 2 ** -8 where H is a power of two; else the series of the next lower power
    of two, then every other member of the series of the next higher one, as in the authors' code.
    """
    lower = 1 << (heads.bit_length() - 1)
    slopes = [2.0 ** (-8 * (i + 1) / lower) for i in range(lower)]
    slopes += [2.0 ** (-4 * (2 * i + 1) / lower) for i in range(heads - lower)]
    return torch.tensor(slopes)


def document_starts(documents_BT: Tensor) -> Tensor:
    """Whether a token (B, T) bool is the first of its document; each window begins one."""
    starts_BT = torch.ones_like(documents_BT, dtype=torch.bool)
    starts_BT[:, 1:] = documents_BT[:, 1:] != documents_BT[:, :-1]
    return starts_BT


def document_positions(documents_BT: Tensor) -> Tensor:
    """Place of each token in its document (B, T) int64, from 0."""
    places_T = torch.arange(documents_BT.shape[1], device=documents_BT.device)
    starts_BT = torch.where(document_starts(documents_BT), places_T, 0)
    return places_T - starts_BT.cummax(dim=1).values
