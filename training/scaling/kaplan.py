"""The power laws of Kaplan et al. 2020 ("Scaling Laws for Neural Language Models"): each limit alone, and N with D."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from training.scaling.laws import Power
from training.scaling.parametric import DELTA
from training.scaling.robust import minimise, reweighted
from training.scaling.runs import Array, Run, ScalingError, columns, groups, require, require_two_ways


def fit_power(what: str, x: Sequence[float], losses: Sequence[float]) -> Power:
    """L = (scale / x)^exponent by least squares on logarithms.

    Raises ScalingError for fewer than 3 points, or where the loss does not fall.
    """
    if len(x) < 3:
        raise ScalingError(f"the law {what} needs at least 3 points, it has {len(x)}")
    slope, intercept = np.polyfit(np.log(np.asarray(x)), np.log(np.asarray(losses)), 1)
    if not slope < 0:
        raise ScalingError(f"the law {what} needs a loss that falls, it rises over the {len(x)} points")
    with np.errstate(over="ignore"):
        return Power(float(np.exp(-intercept / slope)), float(-slope))


def limit(runs: Sequence[Run], by: str) -> list[Run]:
    """The points of L(N), L(D) or L(C) (equations 1.1 to 1.3) in a ladder: `by` is parameters, tokens or flops.

    Those are the runs that no other one undercuts with as little or less of it, which the other limits hold back least;
    the law is the limit itself only as far as they do so little. For L(C), C stands for C_min.
    """
    best: list[Run] = []
    for part in groups(np.log([getattr(run, by) for run in runs])):
        run = min((runs[index] for index in part), key=lambda run: run.loss)
        if not best or run.loss < best[-1].loss:
            best.append(run)
    return best


@dataclass(frozen=True)
class Combined:
    """L = [(N_c / N)^(alpha_N / alpha_D) + D_c / D]^alpha_D (equation 1.5)."""

    N_c: float
    D_c: float
    alpha_N: float
    alpha_D: float
    objective: float = 0.0
    """Sum of Huber losses over delta squared."""

    def loss(self, parameters: ArrayLike, tokens: ArrayLike) -> Array:
        """Loss, of the shape of the inputs."""
        n, d = np.asarray(parameters, dtype=np.float64), np.asarray(tokens, dtype=np.float64)
        sizes = self.alpha_N / self.alpha_D * (np.log(self.N_c) - np.log(n))
        result: Array = np.exp(self.alpha_D * np.logaddexp(sizes, np.log(self.D_c) - np.log(d)))
        return result

    def coefficients(self) -> dict[str, float]:
        """The four."""
        return {"N_c": self.N_c, "D_c": self.D_c, "alpha_N": self.alpha_N, "alpha_D": self.alpha_D}


def fit_combined(runs: Sequence[Run], delta: float = DELTA, near: Combined | None = None) -> Combined:
    """Fit the four coefficients as `parametric.fit_parametric` does.

    Raises ScalingError for fewer than 5 runs, 3 sizes or 3 token counts, or tokens that follow the size.
    """
    what = "Kaplan's law of N and D"
    require(what, runs, 5, sizes=3, token_counts=3)
    require_two_ways(what, runs)
    x = columns(runs)
    n_mean, d_mean, l_mean = float(x.parameters.mean()), float(x.tokens.mean()), float(x.loss.mean())
    n, d = x.parameters - n_mean, x.tokens - d_mean

    def model(theta: Array) -> tuple[Array, Array]:
        # theta: logarithms of the two terms' shares of the mean loss, each alone, and the two exponents.
        size, tokens, alpha_n, alpha_d = theta
        first, second = (size - alpha_n * n) / alpha_d, (tokens - alpha_d * d) / alpha_d
        both = np.logaddexp(first, second)
        share_n, share_d = np.exp(first - both), np.exp(second - both)
        by_alpha_d = both - share_n * first - share_d * (second + d)
        derivatives = np.stack([share_n, share_d, -share_n * n, by_alpha_d], axis=1)
        return alpha_d * both + l_mean, derivatives

    def inward(law: Combined) -> list[float]:
        return [
            law.alpha_N * (np.log(law.N_c) - n_mean) - l_mean,
            law.alpha_D * (np.log(law.D_c) - d_mean) - l_mean,
            law.alpha_N,
            law.alpha_D,
        ]

    bounds = [(-6.0, 1.0), (-6.0, 1.0), (1e-3, 3.0), (1e-3, 3.0)]
    if near is None:
        found = minimise(model, x.loss, _starts(), bounds, delta)
    else:
        found = reweighted(model, x.loss, inward(near), bounds, delta)
    size, tokens, alpha_n, alpha_d = (float(value) for value in found.theta)
    with np.errstate(over="ignore"):
        n_c, d_c = np.exp((size + l_mean) / alpha_n + n_mean), np.exp((tokens + l_mean) / alpha_d + d_mean)
    return Combined(float(n_c), float(d_c), alpha_n, alpha_d, found.objective)


def _starts() -> Iterator[list[float]]:
    shares, exponents = (0.5, 0.8, 0.95), (0.04, 0.08, 0.15, 0.3)
    for size, tokens, alpha_n, alpha_d in itertools.product(shares, shares, exponents, exponents):
        yield [float(np.log(size)), float(np.log(tokens)), alpha_n, alpha_d]
