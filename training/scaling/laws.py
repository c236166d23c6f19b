"""What the fitted laws have in common: a loss for a size and a number of tokens, and the best use of a budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from training.scaling.runs import Array, ScalingError


class Law(Protocol):
    """A fitted law of loss in size and tokens."""

    def loss(self, parameters: ArrayLike, tokens: ArrayLike) -> Array:
        """Loss in nats a token, of the shape of the inputs."""
        ...


AnyLaw = TypeVar("AnyLaw", bound=Law)


@dataclass(frozen=True)
class Optimum:
    """The best use of a budget of FLOPs."""

    flops: float
    parameters: float
    tokens: float

    @property
    def tokens_per_parameter(self) -> float:
        """D / N."""
        return self.tokens / self.parameters


@dataclass(frozen=True)
class Frontier:
    """Best size and tokens as powers of the budget: N = parameters_at_1 C^parameters_exponent, D likewise."""

    parameters_at_1: float
    parameters_exponent: float
    tokens_at_1: float
    tokens_exponent: float

    def optimum(self, flops: float) -> Optimum:
        """Best size and tokens for a budget."""
        return Optimum(
            flops,
            self.parameters_at_1 * flops**self.parameters_exponent,
            self.tokens_at_1 * flops**self.tokens_exponent,
        )


def fit_frontier(what: str, flops: Array, parameters: Array, tokens: Array) -> Frontier:
    """Least squares on logarithms of the best sizes and tokens (n,) at budgets (n,).

    Raises ScalingError for fewer than two budgets.
    """
    if len(flops) < 2 or np.ptp(np.log(flops)) < 0.1:
        raise ScalingError(f"{what} needs the best size at two budgets or more, it has {len(flops)}")
    lines = []
    for values in (parameters, tokens):
        slope, intercept = np.polyfit(np.log(flops), np.log(values), 1)
        lines += [float(np.exp(intercept)), float(slope)]
    return Frontier(*lines)


@dataclass(frozen=True)
class Power:
    """L = (scale / x)^exponent."""

    scale: float
    exponent: float

    def loss(self, x: ArrayLike) -> Array:
        """Loss at x, of its shape."""
        result: Array = (self.scale / np.asarray(x, dtype=np.float64)) ** self.exponent
        return result
