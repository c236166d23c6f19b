"""Least Huber loss on logarithms: L-BFGS from a grid of starts (Hoffmann et al. 2022, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from training.scaling.runs import Array

Model = Callable[[Array], tuple[Array, Array]]
"""From parameters (p,) to predicted logarithms (n,) and their derivatives (n, p)."""


@dataclass(frozen=True)
class Minimum:
    """The best parameters found."""

    theta: Array
    objective: float
    """Sum of the Huber losses of all points, in units of delta squared."""


def huber(residuals: Array, delta: float) -> tuple[float, Array]:
    """Sum of Huber losses over delta squared, and its derivative by each residual (n,)."""
    scaled = residuals / delta
    inside = np.abs(scaled) <= 1
    total = np.where(inside, 0.5 * scaled**2, np.abs(scaled) - 0.5).sum()
    return float(total), np.clip(scaled, -1, 1) / delta


def minimise(
    model: Model,
    observed: Array,
    starts: Iterable[Sequence[float]],
    bounds: Sequence[tuple[float, float]],
    delta: float,
    follow: int = 10,
) -> Minimum:
    """Fit the observed logarithms (n,).

    Of the starts those `follow` with the least loss are followed by L-BFGS, and the best of its ends by `reweighted`.
    The sum is not divided by the number of points: with a mean, L-BFGS ends early, which moved the published estimates
    of Hoffmann et al. (Besiroglu et al. 2024, section 3). What it leaves in the long flat valley of such laws, the
    steps of Gauss-Newton take.
    """
    from scipy.optimize import minimize
    from threadpoolctl import threadpool_limits

    low, high = (np.array(side, dtype=np.float64) for side in zip(*bounds, strict=True))

    def value(theta: Array) -> tuple[float, Array]:
        predicted, derivatives = model(theta)
        total, slope = huber(predicted - observed, delta)
        return total, slope @ derivatives

    candidates = sorted(
        ((value(theta)[0], index, theta) for index, theta in enumerate(np.clip(list(starts), low, high))),
        key=lambda candidate: candidate[:2],
    )[:follow]
    ends: list[tuple[float, int, Array]] = []
    options = {"maxiter": 200, "ftol": 1e-12, "gtol": 1e-9, "maxcor": 20}
    # Several threads on five numbers only wait for each other, a hundred times as long as the work takes.
    with threadpool_limits(limits=1, user_api="blas"):
        for _, index, theta in candidates:
            found = minimize(value, theta, jac=True, method="L-BFGS-B", bounds=list(bounds), options=options)
            if np.isfinite(found.fun):
                ends.append((float(found.fun), index, found.x))
    if not ends:
        raise FloatingPointError("no start of the fit leads to a number")
    best = sorted(ends, key=lambda end: end[:2])[:4]
    minima = [reweighted(model, observed, theta, bounds, delta) for _, _, theta in best]
    return min(minima, key=lambda minimum: minimum.objective)


def reweighted(
    model: Model,
    observed: Array,
    start: Sequence[float] | Array,
    bounds: Sequence[tuple[float, float]],
    delta: float,
    steps: int = 200,
) -> Minimum:
    """Go down from one start by damped Gauss-Newton steps, each point weighted by its Huber loss (Huber 1981, 7.8).

    The weighted squares lie nowhere under the Huber loss and touch it where it stands, so each accepted step lowers it.
    """
    low, high = (np.array(side, dtype=np.float64) for side in zip(*bounds, strict=True))
    theta = np.clip(np.array(start, dtype=np.float64), low, high)
    damping, still = 1e-4, 0
    predicted, derivatives = model(theta)
    objective = huber(predicted - observed, delta)[0]
    for _ in range(steps):
        residuals = predicted - observed
        weights = 1 / np.maximum(np.abs(residuals), delta)
        curvature = derivatives.T @ (weights[:, None] * derivatives)
        slope = derivatives.T @ (weights * residuals)
        scale = np.diag(curvature) + 1e-12 * curvature.max()
        moved = np.clip(theta - np.linalg.solve(curvature + np.diag(damping * scale), slope), low, high)
        new_predicted, new_derivatives = model(moved)
        new = huber(new_predicted - observed, delta)[0]
        if not new < objective:
            damping *= 8
            if damping > 1e8:
                break
            continue
        still = still + 1 if objective - new < 1e-10 * objective else 0
        theta, predicted, derivatives, objective = moved, new_predicted, new_derivatives, new
        damping = max(damping / 4, 1e-12)
        if still == 3 or objective == 0:
            break
    return Minimum(theta, objective)
