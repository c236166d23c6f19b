"""Chinchilla's third approach: L(N, D) = E + A / N^alpha + B / D^beta (Hoffmann et al. 2022, section 3.3)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from training.scaling.laws import Frontier, Optimum
from training.scaling.robust import minimise, reweighted
from training.scaling.runs import Array, Run, columns, require, require_two_ways

DELTA = 1e-3
"""Residual of a logarithm from which on it counts linearly (Hoffmann et al. 2022)."""
LEAST_RUNS = 6
"""One more than there are coefficients."""


@dataclass(frozen=True)
class Parametric:
    """L = E + A / N^alpha + B / D^beta, in nats a token."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float
    objective: float = 0.0
    """Sum of Huber losses over delta squared."""

    def loss(self, parameters: ArrayLike, tokens: ArrayLike) -> Array:
        """Loss, of the shape of the inputs."""
        n, d = np.asarray(parameters, dtype=np.float64), np.asarray(tokens, dtype=np.float64)
        result: Array = self.E + self.A * n**-self.alpha + self.B * d**-self.beta
        return result

    def frontier(self, flops_per_parameter: float = 6.0) -> Frontier:
        """Best size and tokens for each budget, where a token costs `flops_per_parameter` x N (equation 4)."""
        a = self.beta / (self.alpha + self.beta)
        g = (self.alpha * self.A / (self.beta * self.B)) ** (1 / (self.alpha + self.beta))
        return Frontier(g * flops_per_parameter**-a, a, 1 / g * flops_per_parameter ** -(1 - a), 1 - a)

    def optimum(self, flops: float, flops_per_parameter: float = 6.0) -> Optimum:
        """Best size and tokens for a budget."""
        return self.frontier(flops_per_parameter).optimum(flops)

    def coefficients(self) -> dict[str, float]:
        """The five, and the exponents a of N and b of D in the budget."""
        a = self.beta / (self.alpha + self.beta)
        return {"E": self.E, "A": self.A, "B": self.B, "alpha": self.alpha, "beta": self.beta, "a": a, "b": 1 - a}


def check_design(runs: Sequence[Run], what: str = "the parametric fit") -> None:
    """Raise ScalingError where no losses of these runs could tell the five coefficients; it looks at no loss."""
    require(what, runs, LEAST_RUNS, sizes=3, token_counts=3)
    require_two_ways(what, runs)


def fit_parametric(runs: Sequence[Run], delta: float = DELTA, near: Parametric | None = None) -> Parametric:
    """Fit the five coefficients: least Huber loss of the logarithms of the loss, by L-BFGS from a grid of starts.

    The coefficients are searched as shares that the three terms have at the mean size and tokens, so the grid suits
    data of any unit. `near` goes down from that law alone, as a bootstrap does. Raises ScalingError for
    fewer than 6 runs, 3 sizes or 3 token counts, or tokens that follow the size.
    """
    check_design(runs)
    x = columns(runs)
    n_mean, d_mean, l_mean = float(x.parameters.mean()), float(x.tokens.mean()), float(x.loss.mean())
    n, d = x.parameters - n_mean, x.tokens - d_mean

    def model(theta: Array) -> tuple[Array, Array]:
        e, a, b, alpha, beta = theta
        terms = np.stack([np.full_like(n, e), a - alpha * n, b - beta * d])
        top = terms.max(axis=0)
        exponentials = np.exp(terms - top)
        total = exponentials.sum(axis=0)
        share = exponentials / total
        derivatives = np.stack([share[0], share[1], share[2], -share[1] * n, -share[2] * d], axis=1)
        return top + np.log(total) + l_mean, derivatives

    def inward(law: Parametric) -> list[float]:
        return [
            np.log(law.E) - l_mean,
            np.log(law.A) - law.alpha * n_mean - l_mean,
            np.log(law.B) - law.beta * d_mean - l_mean,
            law.alpha,
            law.beta,
        ]

    # A term under e^-12 of the loss is none.
    bounds = [(-12.0, 0.5), (-12.0, 2.0), (-12.0, 2.0), (1e-3, 3.0), (1e-3, 3.0)]
    if near is None:
        found = minimise(model, x.loss, _starts(), bounds, delta)
    else:
        found = reweighted(model, x.loss, inward(near), bounds, delta)
    e, a, b, alpha, beta = (float(value) for value in found.theta)
    return Parametric(
        E=float(np.exp(e + l_mean)),
        A=float(np.exp(a + l_mean + alpha * n_mean)),
        B=float(np.exp(b + l_mean + beta * d_mean)),
        alpha=alpha,
        beta=beta,
        objective=found.objective,
    )


def _starts() -> Iterator[list[float]]:
    """Shares of the terms at the mean, and exponents; the shares need not add up to 1."""
    shares = (0.02, 0.1, 0.3, 0.6)
    exponents = (0.1, 0.25, 0.4, 0.7, 1.2)
    for e, a, b, alpha, beta in itertools.product((0.05, 0.3, 0.6, 0.9), shares, shares, exponents, exponents):
        if 0.7 <= e + a + b <= 1.4:
            yield [float(np.log(e)), float(np.log(a)), float(np.log(b)), alpha, beta]
