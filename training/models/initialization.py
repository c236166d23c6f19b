"""Initial weights by name. A scheme gives each kind of matrix the standard deviation of its normal distribution."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

Kind = Literal["embedding", "input", "output", "head"]
"""A token embedding, a matrix that reads the residual stream, one that writes to it, the vocabulary head."""


def small(kind: Kind, fan_in: int, layers: int) -> float:
    """Variance 1 / fan-in for what reads the stream, zero for what writes to it: every block starts as the identity.

    Zero output matrices as in GPT-2 reimplementations after Zhang et al. 2019 (Fixup, section 3); the head starts
    small, so that the first predictions are nearly uniform.
    """
    return {"embedding": 0.7, "input": fan_in**-0.5, "output": 0.0, "head": 0.1 * fan_in**-0.5}[kind]


def gpt2(kind: Kind, fan_in: int, layers: int) -> float:
    """0.02 everywhere, what writes to the stream scaled by 1 / sqrt(2 * layers) (Radford et al. 2019, section 2.3)."""
    return 0.02 / math.sqrt(2 * layers) if kind == "output" else 0.02


SCHEMES: dict[str, Callable[[Kind, int, int], float]] = {"small": small, "gpt2": gpt2}
