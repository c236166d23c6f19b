"""Scales, ticks and text widths: the arithmetic behind the charts."""

from __future__ import annotations

import itertools
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """A linear map from a domain of values to a range of pixels, or one of log(1 + value), which has a place for 0."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the pixel of a value; values outside of the domain are held at its ends."""
        low, high, value = self._inner(self.low), self._inner(self.high), self._inner(value)
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + min(1.0, max(0.0, share)) * (self.stop - self.start)

    def _inner(self, value: float) -> float:
        return math.log1p(max(value, 0.0)) if self.log else value


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Return round values inside [low, high], about as many as asked for, in steps of 1, 2 or 5 of a power of ten."""
    if not high > low:
        return [low]
    rough = (high - low) / max(about, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((power * factor for factor in (1, 2, 5) if power * factor >= rough * 0.999), power * 10)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return 0 and the powers of ten inside [low, high]; 1 makes way where it would stand close to 0."""
    powers = [10.0**power for power in range(13)]
    inside = [value for value in (0.0, *powers) if low <= value <= high]
    return inside if high < 1000 else [value for value in inside if value != 1.0]


def smooth(values: Sequence[float], reach: int) -> list[float]:
    """Return the moving average over `reach` values at each side, fewer towards the ends: it does not lag behind."""
    sums = list(itertools.accumulate(values, initial=0.0))
    result = []
    for index in range(len(values)):
        near = min(reach, index, len(values) - 1 - index)
        result.append((sums[index + near + 1] - sums[index - near]) / (2 * near + 1))
    return result


def thin(points: Sequence[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """Return at most about `most` points that keep the extremes: of each stretch its lowest and its highest."""
    if len(points) <= most:
        return list(points)
    stretch = math.ceil(2 * len(points) / most)
    result: list[tuple[float, float]] = []
    for start in range(0, len(points), stretch):
        part = points[start : start + stretch]
        result += sorted({min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])})
    return result


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move labels along a line until they are `gap` apart, in their order, inside [low, high] where there is room."""
    order = sorted(range(len(positions)), key=lambda index: (positions[index], index))
    placed = [min(high, max(low, position)) for position in positions]
    for before, after in itertools.pairwise(order):
        placed[after] = max(placed[after], placed[before] + gap)
    if order and placed[order[-1]] > high:
        placed[order[-1]] = high
        for after, before in itertools.pairwise(order[::-1]):
            placed[before] = min(placed[before], placed[after] - gap)
    return placed


def text_width(text: str, size: float) -> float:
    """Return about how wide a text is set: an em for a wide character, a little over half of one for another."""
    return size * sum(1.0 if unicodedata.east_asian_width(letter) in "WF" else 0.56 for letter in text)


def fit(text: str, width: float, size: float) -> str:
    """Return text cut with an ellipsis so that it is about `width` pixels wide at most."""
    if text_width(text, size) <= width:
        return text
    while text and text_width(text + "…", size) > width:
        text = text[:-1]
    return text.rstrip() + "…"
