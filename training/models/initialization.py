"""Initial weights by name. A scheme gives each kind of matrix the standard deviation of its normal distribution."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

Kind = Literal["embedding", "position", "input", "output", "head"]
"""The token embedding, learned positions, a matrix that reads the residual stream (or what is inside of a block), one
that writes to the stream, and the vocabulary head, which a tied embedding counts as."""


class Matrix(NamedTuple):
    """What a scheme may look at."""

    kind: Kind
    fan_in: int
    fan_out: int
    """Of queries, keys, values, gate and value each by itself, though they lie in one matrix."""
    layers: int
    mup_base_width: int


def small(matrix: Matrix) -> float:
    """Variance 1 / fan-in for what reads the stream, zero for what writes to it: every block starts as the identity.

    Zero output matrices as in GPT-2 reimplementations after Zhang et al. 2019 (Fixup, section 3); the head starts
    small, so that the first predictions are nearly uniform.
    """
    deviation = matrix.fan_in**-0.5
    return {
        "embedding": 0.7,
        "position": 0.1,
        "input": deviation,
        "output": 0.0,
        "head": 0.1 * deviation,
    }[matrix.kind]


def gpt2(matrix: Matrix) -> float:
    """0.02 everywhere, what writes to the stream scaled by 1 / sqrt(2 * layers) (Radford et al. 2019, section 2.3)."""
    return 0.02 / math.sqrt(2 * matrix.layers) if matrix.kind == "output" else 0.02


def bert(matrix: Matrix) -> float:
    """0.02 everywhere, from a normal distribution cut at two deviations (the published code of Devlin et al. 2019)."""
    return 0.02


def xavier(matrix: Matrix) -> float:
    """Variance 2 / (fan-in + fan-out) everywhere: Glorot & Bengio 2010, equation 12, drawn from a normal."""
    return math.sqrt(2 / (matrix.fan_in + matrix.fan_out))


def he(matrix: Matrix) -> float:
    """Variance 2 / fan-in everywhere (He et al. 2015, equation 10)."""
    return math.sqrt(2 / matrix.fan_in)


def mup(matrix: Matrix) -> float:
    """Variance 1 / fan-in in the blocks; embeddings and head do not depend on the width (Yang et al. 2022, table 8).

    What the head reads is multiplied by mup_base_width / width, so that at the base width its logits have variance 1.
    What else is multiplied, and learning rates: `training/mup.py`.
    """
    base = matrix.mup_base_width**-0.5
    deviation = matrix.fan_in**-0.5
    return {
        "embedding": 0.7,
        "position": 0.1,
        "input": deviation,
        "output": deviation,
        "head": base,
    }[matrix.kind]


SCHEMES: dict[str, Callable[[Matrix], float]] = {
    "small": small,
    "gpt2": gpt2,
    "bert": bert,
    "xavier": xavier,
    "he": he,
    "mup": mup,
}
"""But for `t5`, which the encoder-decoder draws by itself, since it depends on more than the matrix."""
TRUNCATED = frozenset({"bert"})
"""Schemes whose normal distributions are cut at two deviations."""
