"""All that a ladder of runs says: every law that can be fitted to it with intervals, and why others cannot."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from training.scaling.bootstrap import Bootstrap, Resample, percentiles
from training.scaling.envelope import Envelope, fit_envelope
from training.scaling.forecast import Forecaster, LawName, forecaster
from training.scaling.isoflop import IsoFlop, Valley, fit_isoflop, valleys
from training.scaling.kaplan import fit_power, limit
from training.scaling.laws import Frontier, Power
from training.scaling.runs import Run, ScalingError, usable

T = TypeVar("T")
Interval = tuple[float, float]


@dataclass(frozen=True)
class Analysis:
    """The laws of a ladder. What could not be fitted is None, and stands in `problems` by its name."""

    runs: tuple[Run, ...]
    left_out: Mapping[str, str]
    """Runs that no fit has seen, with the reason."""
    level: float
    """Of all intervals."""
    flops_per_parameter: float
    """Median of C / (N D) of the runs: 6 where a token costs nothing but the products with the parameters."""
    powers: Mapping[str, Power]
    """Kaplan's laws of one variable: parameters, tokens, flops."""
    power_runs: Mapping[str, tuple[str, ...]]
    """The runs that each was fitted to."""
    forecasters: Mapping[str, Forecaster[Any]]
    """Kaplan's law of N and D (combined) and Chinchilla's (parametric)."""
    envelope: Envelope | None
    isoflop: IsoFlop | None
    intervals: Mapping[str, Mapping[str, Interval]]
    """Of the coefficients, by law: combined, parametric, envelope, isoflop (the last two: a and b)."""
    problems: Mapping[str, str] = field(default_factory=dict)

    def slices(self) -> tuple[Valley, ...]:
        """The IsoFLOP slices among the runs, with or without a lowest point."""
        return tuple(valleys(self.runs)) if self.isoflop is None else self.isoflop.valleys

    def law(self, name: str) -> Any:
        """The fitted law `parametric` or `combined`. Raises KeyError where it could not be fitted."""
        return self.forecasters[name].bootstrap.law

    def frontiers(self) -> dict[str, Frontier]:
        """Best size and tokens over the budget, by approach, as far as they could be fitted."""
        found: dict[str, Frontier] = {}
        if self.envelope is not None:
            found["envelope"] = self.envelope.frontier
        if self.isoflop is not None:
            found["isoflop"] = self.isoflop.frontier
        if "parametric" in self.forecasters:
            found["parametric"] = self.law("parametric").frontier(self.flops_per_parameter)
        return found

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        laws = {
            name: {
                **self.law(name).coefficients(),
                "spread": found.bootstrap.spread,
                "backtest": None if found.backtest is None else dataclasses.asdict(found.backtest),
            }
            for name, found in self.forecasters.items()
        }
        return {
            "runs": [dataclasses.asdict(run) for run in self.runs],
            "left_out": dict(self.left_out),
            "level": self.level,
            "flops_per_parameter": self.flops_per_parameter,
            "powers": {
                name: {**dataclasses.asdict(law), "runs": list(self.power_runs[name])}
                for name, law in self.powers.items()
            },
            "laws": laws,
            "frontiers": {name: dataclasses.asdict(law) for name, law in self.frontiers().items()},
            "valleys": [
                {**dataclasses.asdict(valley), **_finite(valley, ("parameters", "tokens", "loss"))}
                for valley in self.slices()
            ],
            "intervals": {
                law: {name: list(ends) for name, ends in found.items()} for law, found in self.intervals.items()
            },
            "problems": dict(self.problems),
        }


def analyse(
    runs: Sequence[Run],
    left_out: Mapping[str, str] | None = None,
    *,
    ceiling: float = math.inf,
    draws: int = 200,
    level: float = 0.9,
    seed: int = 1,
    resample: Resample = "residuals",
) -> Analysis:
    """Fit every law to the runs; `left_out` names those that are none, such as diverged ones.

    Raises ScalingError where no run can be used at all, or none of the laws can be fitted, naming the runs left out.
    """
    kept, more = usable(runs, ceiling)
    left_out = {**(left_out or {}), **more}
    lost = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
    if not kept:
        raise ScalingError(f"there is no run to fit{f': {lost}' if lost else ''}")
    problems: dict[str, str] = {}

    def attempt(name: str, make: Callable[[], T]) -> T | None:
        try:
            return make()
        except ScalingError as error:
            problems[name] = str(error)
            return None

    forecasters: dict[str, Forecaster[Any]] = {}
    names: tuple[LawName, ...] = ("parametric", "combined")
    for name in names:
        found = attempt(name, lambda name=name: forecaster(kept, name, draws, seed, resample))  # type: ignore[misc]
        if found is not None:
            forecasters[name] = found
    powers: dict[str, Power] = {}
    power_runs: dict[str, tuple[str, ...]] = {}
    for by in ("parameters", "tokens", "flops"):
        chosen = limit(kept, by)
        x = [float(getattr(run, by)) for run in chosen]
        losses = [run.loss for run in chosen]
        power = attempt(by, lambda by=by, x=x, losses=losses: fit_power(f"L({by})", x, losses))  # type: ignore[misc]
        if power is not None:
            powers[by], power_runs[by] = power, tuple(run.name for run in chosen)
    envelope = attempt("envelope", lambda: fit_envelope(kept))
    isoflop = attempt("isoflop", lambda: fit_isoflop(kept))
    if not (forecasters or powers or envelope or isoflop):
        told = "; ".join(dict.fromkeys(problems.values()))
        raise ScalingError(f"nothing can be fitted to {len(kept)} runs: {told}{f'; left out: {lost}' if lost else ''}")
    return Analysis(
        runs=tuple(kept),
        left_out=left_out,
        level=level,
        flops_per_parameter=float(np.median([run.flops / (run.parameters * run.tokens) for run in kept])),
        powers=powers,
        power_runs=power_runs,
        forecasters=forecasters,
        envelope=envelope,
        isoflop=isoflop,
        intervals=_intervals(forecasters, envelope, isoflop, level),
        problems=problems,
    )


def _intervals(
    forecasters: Mapping[str, Forecaster[Any]], envelope: Envelope | None, isoflop: IsoFlop | None, level: float
) -> dict[str, dict[str, Interval]]:
    """Percentile intervals of all coefficients.

    Envelope and parabolas have no law of their own that residuals could be drawn from: they are fitted to the draws of
    the parametric one.
    """
    found: dict[str, dict[str, Interval]] = {}
    for name, fitted in forecasters.items():
        drawn = [law.coefficients() for law in fitted.bootstrap.laws]
        found[name] = {key: percentiles([row[key] for row in drawn], level) for key in drawn[0]}
    if "parametric" in forecasters:
        drawn_runs = forecasters["parametric"].bootstrap
        if envelope is not None:
            found["envelope"] = _exponents(drawn_runs, lambda runs: fit_envelope(runs).frontier, level)
        if isoflop is not None:
            found["isoflop"] = _exponents(drawn_runs, lambda runs: fit_isoflop(runs).frontier, level)
    return found


def _exponents(drawn: Bootstrap[Any], fit: Callable[[Sequence[Run]], Frontier], level: float) -> dict[str, Interval]:
    rows: list[Frontier] = []
    for sample in drawn.samples:
        try:
            rows.append(fit(sample))
        except ScalingError:
            continue
    return {
        "a": percentiles([row.parameters_exponent for row in rows], level),
        "b": percentiles([row.tokens_exponent for row in rows], level),
    }


def _finite(valley: Any, names: Sequence[str]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value := getattr(valley, name)) else None for name in names}
