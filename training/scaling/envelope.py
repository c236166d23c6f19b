"""Chinchilla's first approach: the lower envelope of the loss over FLOPs of all sizes (Hoffmann et al. 2022, 3.1).

A size's curve goes through the ends of its runs, each with a schedule of its own length, and is a power law between
two of them. A loss in the middle of a run is no point of it: there the learning rate has not come down yet, and a run
that ended there would be better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.scaling.laws import Frontier, fit_frontier
from training.scaling.runs import Array, Run, ScalingError, columns, groups

PLACES = 400
"""Budgets, evenly spaced in their logarithm, at which the best size is looked up."""


@dataclass(frozen=True)
class Envelope:
    """The envelope at the budgets where two sizes or more have a curve; all (n,)."""

    flops: Array
    loss: Array
    parameters: Array
    tokens: Array
    frontier: Frontier


def fit_envelope(runs: Sequence[Run]) -> Envelope:
    """Fit best size and tokens as powers of the budget to the places where the best size changes.

    Where the curve of one size crosses under that of another, both are equally good, and the best size lies about in
    the middle between them (of the logarithms). At other budgets the size on the envelope is only the best of those
    that were trained. Raises ScalingError where fewer than two places are found.
    """
    x = columns(runs)
    curves = [part[np.argsort(x.flops[part])] for part in groups(x.parameters)]
    curves = [part for part in curves if len(part) > 1]
    if len(curves) < 2:
        raise ScalingError(f"the envelope needs two sizes with two token counts or more each, it has {len(curves)}")
    budgets = np.linspace(x.flops.min(), x.flops.max(), PLACES)
    losses = np.stack([_between(budgets, x.flops[part], x.loss[part]) for part in curves])
    both = np.isfinite(losses).sum(axis=0) > 1
    if not both.any():
        raise ScalingError("the envelope needs budgets that two sizes or more reach; no two sizes' FLOPs overlap")
    budgets, losses = budgets[both], losses[:, both]
    best = np.nanargmin(losses, axis=0)
    tokens = np.stack([_between(budgets, x.flops[part], x.tokens[part]) for part in curves])
    places = np.arange(len(budgets))
    sizes = np.array([x.parameters[part].mean() for part in curves])
    turns = _turns(best, losses)
    if len(turns) < 2:
        names = ", ".join(f"{np.exp(sizes[size]):.3g}" for size in sorted({int(size) for size in best}))
        raise ScalingError(
            f"the envelope needs two budgets at which the best size changes, it has {len(turns)} (sizes on it: {names})"
        )
    rows = []
    for place in turns:
        pair = (best[place - 1], best[place])
        rows.append(
            [
                np.mean([budgets[place - 1], budgets[place]]),
                np.mean([sizes[size] for size in pair]),
                np.mean([tokens[size, place - 1 + index] for index, size in enumerate(pair)]),
            ]
        )
    table = np.exp(np.array(rows))
    return Envelope(
        np.exp(budgets),
        np.exp(losses[best, places]),
        np.exp(sizes[best]),
        np.exp(tokens[best, places]),
        fit_frontier("the envelope", *table.T),
    )


def _between(budgets: Array, flops: Array, values: Array) -> Array:
    """Values at the budgets between the runs' FLOPs, all logarithms; nan outside."""
    result: Array = np.interp(budgets, flops, values, left=np.nan, right=np.nan)
    return result


def _turns(best: np.ndarray, losses: Array) -> list[int]:
    """Places where one size's curve crosses under another's: not where a curve begins or ends."""
    found = []
    for place in np.flatnonzero(np.diff(best)) + 1:
        before, after = best[place - 1], best[place]
        if np.isfinite(losses[[before, after]][:, [place - 1, place]]).all():
            found.append(int(place))
    return found
