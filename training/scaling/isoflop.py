"""Chinchilla's second approach: at each budget a parabola through the losses over the logarithm of the size.

Hoffmann et al. 2022, section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from training.scaling.laws import Frontier, fit_frontier
from training.scaling.runs import Array, Run, ScalingError, columns, groups

TOLERANCE = 0.10
"""Runs whose FLOPs differ by less than this share belong to one slice."""


@dataclass(frozen=True)
class Valley:
    """One budget: its runs and the parabola through them."""

    flops: float
    runs: tuple[str, ...]
    problem: str
    """Why the parabola has no lowest point among the sizes; empty where it has one."""
    parameters: float
    """Size at the lowest point; nan where there is none, as for the next two."""
    tokens: float
    loss: float
    curve: tuple[float, float, float]
    """Coefficients of the loss in the logarithm of the size, the square first."""

    def loss_at(self, parameters: ArrayLike) -> Array:
        """The parabola at sizes, of their shape."""
        result: Array = np.polyval(np.array(self.curve), np.log(np.asarray(parameters, dtype=np.float64)))
        return result


@dataclass(frozen=True)
class IsoFlop:
    """The valleys, and best size and tokens over the budgets where two or more have a lowest point."""

    valleys: tuple[Valley, ...]
    frontier: Frontier


def valleys(runs: Sequence[Run], tolerance: float = TOLERANCE) -> list[Valley]:
    """Return each group of three or more runs with about equal FLOPs with its parabola, smallest budget first."""
    found = columns(runs)
    slices = [[runs[index] for index in part] for part in groups(found.flops, tolerance)]
    return [_valley(part) for part in slices if len(part) > 2 and len(groups(columns(part).parameters)) > 2]


def fit_isoflop(runs: Sequence[Run], tolerance: float = TOLERANCE) -> IsoFlop:
    """Fit best size and tokens as powers of the budget.

    Raises ScalingError where fewer than two slices have a lowest point between their sizes, saying why.
    """
    found = valleys(runs, tolerance)
    good = [valley for valley in found if not valley.problem]
    if len(good) < 2:
        reasons = "; ".join(f"{valley.flops:.3g} FLOPs: {valley.problem}" for valley in found if valley.problem)
        raise ScalingError(
            "the IsoFLOP parabolas need two budgets, each with three sizes or more around the best one; there are "
            f"{len(good)}" + (f" ({reasons})" if reasons else "")
        )
    table = np.array([[valley.flops, valley.parameters, valley.tokens] for valley in good])
    return IsoFlop(tuple(found), fit_frontier("the IsoFLOP fit", *table.T))


def _valley(runs: Sequence[Run]) -> Valley:
    x = columns(runs)
    mean = x.parameters.mean()
    square, slope, level = np.polyfit(x.parameters - mean, np.exp(x.loss), 2)
    flops = float(np.exp(x.flops.mean()))
    curve = (float(square), float(slope - 2 * square * mean), float(level - slope * mean + square * mean**2))
    names = tuple(run.name for run in runs)
    problem, bottom = "", float("nan")
    if not square > 0:
        problem = "the losses have no valley over the sizes"
    else:
        bottom = mean - slope / (2 * square)
        if bottom < x.parameters.min():
            problem = "the best size lies under the smallest one"
        elif bottom > x.parameters.max():
            problem = "the best size lies over the largest one"
    if problem:
        nan = float("nan")
        return Valley(flops, names, problem, nan, nan, nan, curve)
    # FLOPs a token are no exact multiple of the size (attention), so the tokens are read between the runs.
    order = np.argsort(x.parameters)
    tokens = float(np.exp(np.interp(bottom, x.parameters[order], x.tokens[order])))
    loss = float(level - slope**2 / (4 * square))
    return Valley(flops, names, "", float(np.exp(bottom)), tokens, loss, curve)
