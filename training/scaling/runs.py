"""What the fits read: finished runs with their size, tokens, FLOPs and held-out loss; and what cannot be fitted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SAME = 0.01
"""Sizes and token counts that differ by less than this share count as one."""


class ScalingError(ValueError):
    """Runs cannot be fitted, or not in this way; the message says what is missing."""


@dataclass(frozen=True)
class Run:
    """A finished training: one point of the law."""

    name: str
    parameters: float
    """N: parameters, counted alike in all runs."""
    tokens: float
    """D: tokens seen."""
    flops: float
    """C: FLOPs of the whole training."""
    loss: float
    """Held-out loss at its end, in nats a token."""

    def with_loss(self, loss: float) -> Run:
        """The same run with another loss."""
        return Run(self.name, self.parameters, self.tokens, self.flops, loss)


@dataclass(frozen=True)
class Columns:
    """Natural logarithms of the runs' numbers, each (n,)."""

    parameters: Array
    tokens: Array
    flops: Array
    loss: Array


def usable(runs: Iterable[Run], ceiling: float = math.inf) -> tuple[list[Run], dict[str, str]]:
    """Split runs into those that say something about the law, and the others by name with the reason.

    A loss that is no number, or that does not lie under `ceiling` (the logarithm of the vocabulary: what guessing
    reaches), comes from a run that diverged or has not learned. Raises ScalingError for numbers that no run can have.
    """
    kept, left_out = [], {}
    for run in runs:
        for field in ("parameters", "tokens", "flops"):
            value = getattr(run, field)
            if not (math.isfinite(value) and value > 0):
                raise ScalingError(f"run {run.name}: {field} must be a positive number, got {value}")
        if not math.isfinite(run.loss):
            left_out[run.name] = "its loss is no number"
        elif run.loss <= 0:
            raise ScalingError(f"run {run.name}: loss must be positive, got {run.loss}")
        elif run.loss >= ceiling:
            left_out[run.name] = f"its loss {run.loss:.3f} is not under that of guessing, {ceiling:.3f}"
        else:
            kept.append(run)
    return kept, left_out


def columns(runs: Sequence[Run]) -> Columns:
    """The runs as arrays of logarithms."""
    table = np.log([[run.parameters, run.tokens, run.flops, run.loss] for run in runs]).reshape(-1, 4)
    return Columns(*(np.ascontiguousarray(column) for column in table.T))


def groups(values: Array, gap: float = SAME) -> list[NDArray[np.intp]]:
    """Indices of logarithms that lie together: a step of more than `gap` to the next larger one begins a new group."""
    order = np.argsort(values, kind="stable")
    breaks = np.flatnonzero(np.diff(values[order]) > gap) + 1
    return [np.sort(part) for part in np.split(order, breaks)] if len(order) else []


def require(what: str, runs: Sequence[Run], least: int, sizes: int = 1, token_counts: int = 1) -> None:
    """Raise ScalingError where there are fewer runs, sizes or token counts than a fit needs."""
    if len(runs) < least:
        raise ScalingError(f"{what} needs at least {least} finished runs, there are {len(runs)}")
    found = columns(runs)
    for name, logs, wanted in (("sizes", found.parameters, sizes), ("token counts", found.tokens, token_counts)):
        count = len(groups(logs))
        if count < wanted:
            raise ScalingError(f"{what} needs at least {wanted} different {name}, the {len(runs)} runs have {count}")


def require_two_ways(what: str, runs: Sequence[Run]) -> None:
    """Raise ScalingError where tokens rise with the size in all runs, so that the two effects cannot be told apart."""
    found = columns(runs)
    if abs(np.corrcoef(found.parameters, found.tokens)[0, 1]) > 0.999:
        raise ScalingError(
            f"{what}: tokens follow the size in all {len(runs)} runs, so what each does to the loss cannot be told "
            "apart; train some sizes on several token counts"
        )
