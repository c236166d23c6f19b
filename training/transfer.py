"""Where a sweep of learning rates has its optimum, and how far that moves as a model grows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Optimum:
    """The best learning rate of a sweep."""

    rate: float
    loss: float
    """At this rate, by the parabola."""
    best_tried: float
    """The rate of the sweep with the lowest loss."""
    edge: Literal["", "lowest", "highest"] = ""
    """Whether that is the lowest or highest rate of the sweep: the optimum may lie beyond it. The highest one below a
    rate that diverged is none, since beyond it lies nothing."""


def optimum(rates: Sequence[float], losses: Sequence[float]) -> Optimum:
    """The vertex of the parabola through the best point of a sweep and its neighbours, over the logarithm of the rate.

    At the edge of the sweep the best point itself. A loss is infinite where the training diverged and NaN where it is
    not known; both are left out. Raises ValueError for fewer than three points, rates that are not positive, or one
    rate twice.
    """
    if len(rates) != len(losses):
        raise ValueError(f"{len(rates)} rates, but {len(losses)} losses")
    if any(not (math.isfinite(rate) and rate > 0) for rate in rates):
        raise ValueError(f"learning rates must be positive numbers, got {', '.join(f'{rate:g}' for rate in rates)}")
    if len(set(rates)) < len(rates):
        raise ValueError("a rate stands in the sweep twice; give the mean of its losses")
    points = sorted((rate, loss) for rate, loss in zip(rates, losses, strict=True) if math.isfinite(loss))
    if len(points) < 3:
        raise ValueError(f"an optimum needs losses at three rates at least, got {len(points)}")
    place = min(range(len(points)), key=lambda index: points[index][1])
    rate, loss = points[place]
    if place == 0:
        return Optimum(rate, loss, rate, "lowest")
    if place == len(points) - 1:
        _, above = min(
            ((one, its) for one, its in zip(rates, losses, strict=True) if one > rate), default=(rate, math.nan)
        )
        return Optimum(rate, loss, rate, "" if above == math.inf else "highest")
    (x0, y0), (x, y), (x2, y2) = ((math.log2(near), its) for near, its in points[place - 1 : place + 2])
    # Newton's form of the parabola through three points.
    first = (y - y0) / (x - x0)
    bend = ((y2 - y) / (x2 - x) - first) / (x2 - x0)
    if bend <= 0:  # three equal losses
        return Optimum(rate, loss, rate)
    vertex = (x0 + x) / 2 - first / (2 * bend)
    return Optimum(2**vertex, y0 + first * (vertex - x0) + bend * (vertex - x0) * (vertex - x), rate)


def movement(sizes: Sequence[float], rates: Sequence[float]) -> float:
    """Powers of two by which the best rate changes with each doubling of the size: the slope of a least-squares line.

    Raises ValueError for fewer than two sizes.
    """
    if len(set(sizes)) < 2:
        raise ValueError(f"movement needs optima at two sizes at least, got {len(set(sizes))}")
    xs, ys = [math.log2(size) for size in sizes], [math.log2(rate) for rate in rates]
    x_mean, y_mean = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - x_mean) ** 2 for x in xs)
    return sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True)) / spread
