"""How sure a fit is: the same fit to runs drawn anew."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, Protocol

import numpy as np

from training.scaling.laws import AnyLaw
from training.scaling.runs import Array, Run, ScalingError, columns

Resample = Literal["residuals", "runs"]


class Fit(Protocol[AnyLaw]):
    """A fit of a law; `near` is a law to start from."""

    def __call__(self, runs: Sequence[Run], *, near: AnyLaw | None = None) -> AnyLaw:
        """Fit the law."""
        ...


@dataclass(frozen=True)
class Bootstrap(Generic[AnyLaw]):
    """A law, and the laws of the draws."""

    law: AnyLaw
    laws: tuple[AnyLaw, ...]
    samples: tuple[tuple[Run, ...], ...]
    """The drawn runs behind each of `laws`."""
    spread: float
    """Standard deviation of the logarithms of the losses around the law, with n - p degrees of freedom."""
    degrees: int

    def interval(self, quantity: Callable[[AnyLaw], float], level: float) -> tuple[float, float]:
        """Lower and upper end of the percentile interval of a quantity of the law."""
        return percentiles([quantity(law) for law in self.laws], level)


def percentiles(values: Sequence[float], level: float) -> tuple[float, float]:
    """The interval that holds `level` of the values, as much left out on either side. nan where there is none."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return math.nan, math.nan
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap(
    fit: Fit[AnyLaw],
    runs: Sequence[Run],
    coefficients: int,
    draws: int = 200,
    seed: int = 1,
    resample: Resample = "residuals",
) -> Bootstrap[AnyLaw]:
    """Fit a law of so many coefficients to the runs and to `draws` draws of them.

    residuals: sizes and tokens stay, and each loss is the law's with a residual drawn from all, scaled by
    sqrt(n / (n - p)) for what the fit has taken up. A ladder is a design and not a sample, and of a dozen runs a draw
    may lack a whole size (Davison & Hinkley 1997, section 6.3). runs: whole runs are drawn with replacement, as
    Besiroglu et al. 2024 did with 240; draws that cannot be fitted are drawn anew. Raises ScalingError where the runs
    are no more than the coefficients, or where most draws cannot be fitted.
    """
    degrees = len(runs) - coefficients
    if degrees < 1:
        raise ScalingError(
            f"intervals need more runs than the law has coefficients: {coefficients + 1} or more, there are {len(runs)}"
        )
    law = fit(runs)
    expected, residuals = _residuals(law, runs)
    generator = np.random.default_rng(seed)
    laws: list[AnyLaw] = []
    samples: list[tuple[Run, ...]] = []
    for _ in range(10 * draws):
        if len(laws) == draws:
            break
        picked = generator.integers(len(runs), size=len(runs))
        if resample == "runs":
            sample = tuple(runs[index] for index in picked)
        else:
            noise = (residuals - residuals.mean())[picked] * math.sqrt(len(runs) / degrees)
            losses = np.exp(expected + noise)
            sample = tuple(run.with_loss(float(loss)) for run, loss in zip(runs, losses, strict=True))
        try:
            laws.append(fit(sample, near=law))
        except ScalingError:
            continue
        samples.append(sample)
    if len(laws) < draws:
        raise ScalingError(f"only {len(laws)} of {10 * draws} draws of the {len(runs)} runs can be fitted; train more")
    return Bootstrap(law, tuple(laws), tuple(samples), math.sqrt(float((residuals**2).sum()) / degrees), degrees)


def _residuals(law: AnyLaw, runs: Sequence[Run]) -> tuple[Array, Array]:
    """The law's logarithms of the losses, and how far the runs lie above them; (n,)."""
    found = columns(runs)
    expected = np.log(law.loss(np.exp(found.parameters), np.exp(found.tokens)))
    return expected, found.loss - expected
