"""The loss of a run that has not been trained, with an interval that it should lie in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal

import numpy as np

from training.scaling.bootstrap import Bootstrap, Fit, Resample, bootstrap
from training.scaling.kaplan import fit_combined
from training.scaling.laws import AnyLaw
from training.scaling.parametric import fit_parametric
from training.scaling.runs import Array, Run, ScalingError, columns

LawName = Literal["parametric", "combined"]
FITS: dict[str, tuple[Any, int]] = {"parametric": (fit_parametric, 5), "combined": (fit_combined, 4)}
"""The laws that forecast: Chinchilla's and Kaplan's, with their number of coefficients."""

WITHHELD = 0.25
"""Share of the runs, those of most FLOPs, that the backtest forecasts from the others."""


@dataclass(frozen=True)
class Backtest:
    """The same forecast tried on the largest runs that are there."""

    runs: tuple[str, ...]
    errors: tuple[float, ...]
    """Logarithm of the measured loss over the forecast one: 0.01 is 1 % worse than forecast."""

    @property
    def spread(self) -> float:
        """Root of the mean square."""
        return math.sqrt(sum(error**2 for error in self.errors) / len(self.errors))


@dataclass(frozen=True)
class Forecast:
    """What a run should come to."""

    law: str
    parameters: float
    tokens: float
    loss: float
    low: float
    high: float
    level: float
    spread: float
    """Standard deviation that a single run was taken to have around the law, of logarithms."""
    extrapolation: float
    """FLOPs (as N D) of the run over those of the largest run fitted."""
    backtest: Backtest | None

    def holds(self, loss: float) -> bool:
        """Whether a measured loss lies in the interval."""
        return self.low <= loss <= self.high

    def error(self, loss: float) -> float:
        """How far a measured loss lies above the forecast, as a share of it."""
        return loss / self.loss - 1


@dataclass(frozen=True)
class Forecaster(Generic[AnyLaw]):
    """A law with all that a forecast needs."""

    name: str
    bootstrap: Bootstrap[AnyLaw]
    backtest: Backtest | None
    largest: float
    """Logarithm of the most N D among the runs."""
    seed: int

    def forecast(self, parameters: float, tokens: float, level: float = 0.9) -> Forecast:
        """Forecast a run of N parameters and D tokens.

        The interval holds what the coefficients leave open (the draws) and what one run scatters around the law:
        Student's t on n - p degrees, as wide as the residuals, or as the errors of the backtest where those are larger.
        """
        found = self.bootstrap
        spread = max(found.spread, self.backtest.spread if self.backtest else 0.0)
        generator = np.random.default_rng(self.seed)
        laws: Array = np.log([float(law.loss(parameters, tokens)) for law in found.laws])
        noise = spread * generator.standard_t(found.degrees, size=(len(laws), 200))
        low, high = np.exp(np.quantile(laws[:, None] + noise, [(1 - level) / 2, (1 + level) / 2]))
        loss = float(found.law.loss(parameters, tokens))
        return Forecast(
            law=self.name,
            parameters=parameters,
            tokens=tokens,
            loss=loss,
            low=min(float(low), loss),
            high=max(float(high), loss),
            level=level,
            spread=spread,
            extrapolation=math.exp(math.log(parameters) + math.log(tokens) - self.largest),
            backtest=self.backtest,
        )


def forecaster(
    runs: Sequence[Run], law: LawName = "parametric", draws: int = 200, seed: int = 1, resample: Resample = "residuals"
) -> Forecaster[Any]:
    """Fit a law for forecasts. Raises ScalingError as the fit and `bootstrap` do."""
    fit, coefficients = FITS[law]
    drawn: Bootstrap[Any] = bootstrap(fit, runs, coefficients, draws, seed, resample)
    largest = float((columns(runs).parameters + columns(runs).tokens).max())
    return Forecaster(law, drawn, backtest(fit, runs), largest, seed)


def backtest(fit: Fit[Any], runs: Sequence[Run]) -> Backtest | None:
    """Forecast the runs of most FLOPs from the others; None where those are too few for the fit."""
    by_flops = sorted(runs, key=lambda run: run.flops)
    withheld = max(2, round(WITHHELD * len(runs)))
    try:
        law = fit(by_flops[:-withheld])
    except ScalingError:
        return None
    rest = by_flops[-withheld:]
    errors = tuple(math.log(run.loss / float(law.loss(run.parameters, run.tokens))) for run in rest)
    return Backtest(tuple(run.name for run in rest), errors)
