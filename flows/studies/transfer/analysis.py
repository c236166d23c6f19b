"""What the sweeps of a transfer study say: the optimum at each size, and whether a rate holds from small to large."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from flows.studies.transfer.recipe import TransferRecipe
from flows.studies.trial import Outcome
from training.transfer import Optimum, movement, optimum


@dataclass(frozen=True)
class Curve:
    """The losses of one size over the learning rate, means over the seeds."""

    parametrization: str
    size: int
    rates: tuple[float, ...]
    losses: tuple[float, ...]
    """In nats per token; infinite where a seed diverged, NaN where one did not finish for another reason."""
    best: Optimum | None
    problem: str = ""
    """Why there is no optimum."""

    def loss_at(self, rate: float) -> float:
        """The loss at a rate of the sweep; infinite or NaN where it did not finish."""
        return self.losses[self.rates.index(rate)]


@dataclass(frozen=True)
class Transfer:
    """How one parametrisation takes a rate from the smallest size to the largest."""

    parametrization: str
    curves: list[Curve] = field(default_factory=list)
    octaves: float | None = None
    """Powers of two by which the best rate changes per doubling of the size."""
    at_edge: bool = False
    """Whether an optimum lies at the edge of its sweep, so that it may have moved further."""
    taken: float | None = None
    """The best rate that was tried at the smallest size."""
    lost: float | None = None
    """What it loses at the largest size to the best there, in nats per token; infinite where it diverged."""
    held: bool | None = None
    """Whether that is within the tolerance; None where the sweeps do not tell, as their best lies at an edge."""

    @property
    def least(self) -> float:
        """The lowest loss at the largest size; NaN where there is none."""
        return min((loss for loss in self.curves[-1].losses if math.isfinite(loss)), default=math.nan)


def transfers(recipe: TransferRecipe, outcomes: Sequence[Outcome]) -> list[Transfer]:
    """One for each parametrisation of the recipe."""
    return [_transfer(recipe, parametrization, outcomes) for parametrization in recipe.parametrizations]


def _transfer(recipe: TransferRecipe, parametrization: str, outcomes: Sequence[Outcome]) -> Transfer:
    curves = [_curve(recipe, parametrization, size, outcomes) for size in sorted(recipe.sizes)]
    known = [(curve.size, curve.best) for curve in curves if curve.best is not None]
    octaves = movement([size for size, _ in known], [best.rate for _, best in known]) if len(known) > 1 else None
    at_edge = any(best.edge for _, best in known)
    first, last = curves[0], curves[-1]
    if first.best is None or last.best is None:
        return Transfer(parametrization, curves, octaves, at_edge)
    taken, best = first.best.best_tried, last.loss_at(last.best.best_tried)
    there = last.loss_at(taken)
    lost = there - best if math.isfinite(there) else math.inf
    held: bool | None = lost <= recipe.tolerance * best
    # Beyond the edge something may be better: at the smallest size another rate, at the largest a lower loss.
    if first.best.edge or (held and last.best.edge):
        held = None
    return Transfer(parametrization, curves, octaves, at_edge, taken, lost, held)


def _curve(recipe: TransferRecipe, parametrization: str, size: int, outcomes: Sequence[Outcome]) -> Curve:
    found: dict[float, list[float]] = {}
    for outcome in outcomes:
        given = outcome.trial.parameters
        if given["parametrization"] == parametrization and given[recipe.axis] == size:
            found.setdefault(float(given["rate"]), []).append(_loss(outcome))
    rates = sorted(found)
    losses = [fmean(found[rate]) for rate in rates]
    try:
        best, problem = optimum(rates, losses), ""
    except ValueError as error:
        best, problem = None, str(error)
    return Curve(parametrization, size, tuple(rates), tuple(losses), best, problem)


def _loss(outcome: Outcome) -> float:
    if outcome.finished:
        return outcome.loss
    return math.inf if outcome.state == "diverged" else math.nan


def results_of(recipe: TransferRecipe, found: Sequence[Transfer], outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The results as JSON values, with `metrics` and `tables` as a study publishes them."""
    metrics: dict[str, float] = {}
    for one in found:
        given = {"octaves_per_doubling": one.octaves, "transfer_loss": one.lost, "least_loss": one.least}
        metrics |= {
            f"{one.parametrization}/{name}": value
            for name, value in given.items()
            if value is not None and math.isfinite(value)
        }
    columns = ["parametrization", recipe.axis, "best_rate", "loss", "best_tried", "edge", "problem"]
    rows = [
        [
            curve.parametrization,
            curve.size,
            *([best.rate, best.loss, best.best_tried, best.edge] if (best := curve.best) else [None] * 4),
            curve.problem,
        ]
        for one in found
        for curve in one.curves
    ]
    excluded = [
        {"trial": outcome.trial.name, "state": outcome.state, "error": outcome.error}
        for outcome in outcomes
        if not outcome.finished
    ]
    return {
        "axis": recipe.axis,
        "metrics": metrics,
        "tables": {"optima": {"columns": columns, "rows": rows}},
        "transfers": [
            {
                "parametrization": one.parametrization,
                "octaves_per_doubling": one.octaves,
                "at_edge": one.at_edge,
                "rate_taken": one.taken,
                "loss_by_transfer": one.lost if one.lost is None or math.isfinite(one.lost) else None,
                "held": one.held,
            }
            for one in found
        ],
        "excluded": excluded,
    }
