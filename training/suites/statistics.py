"""Standard errors by resampling, calibration, and averages over tasks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_AT_ONCE = 1 << 22
"""Indices drawn at once."""


def bootstrap_error(values: Sequence[float] | Floats, resamples: int, seed: int) -> float | None:
    """Standard error of the mean of values by the bootstrap (Efron 1979): the deviation of the means of resamples.

    None without resamples, or for fewer than two values.
    """
    array = np.asarray(values, dtype=np.float64)
    if resamples < 2 or len(array) < 2:
        return None
    random = np.random.default_rng(seed)
    step = max(1, _AT_ONCE // len(array))
    means = [
        array[random.integers(0, len(array), (min(step, resamples - begin), len(array)))].mean(axis=1)
        for begin in range(0, resamples, step)
    ]
    return float(np.concatenate(means).std(ddof=1))


def bootstrap_error_of(
    statistic: Callable[[NDArray[np.int64]], float], count: int, resamples: int, seed: int
) -> float | None:
    """The same for a statistic of items, which is given by their places (with repetition)."""
    if resamples < 2 or count < 2:
        return None
    random = np.random.default_rng(seed)
    return float(np.std([statistic(random.integers(0, count, count)) for _ in range(resamples)], ddof=1))


def calibration(confidences: Sequence[float], right: Sequence[float], bins: int) -> tuple[float, list[dict[str, Any]]]:
    """The expected calibration error over equal bins of confidence (0, 1], and the bins (Guo et al. 2017, section 2).

    A bin: lower, upper, count, confidence and accuracy (means; None where it is empty).
    """
    confidence, hit = np.asarray(confidences, dtype=np.float64), np.asarray(right, dtype=np.float64)
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    rows, error = [], 0.0
    for number in range(bins):
        mine = place == number
        count = int(mine.sum())
        row: dict[str, Any] = {"lower": number / bins, "upper": (number + 1) / bins, "count": count}
        row |= {"confidence": None, "accuracy": None}
        if count:
            row["confidence"], row["accuracy"] = float(confidence[mine].mean()), float(hit[mine].mean())
            error += count / len(confidence) * abs(row["confidence"] - row["accuracy"])
        rows.append(row)
    return error, rows


def centered(value: float, baseline: float) -> float:
    """How far a score lies between guessing (0) and perfection (1): DCLM's centring (Li et al. 2024, section 3.5)."""
    return (value - baseline) / (1 - baseline)


def combined_error(errors: Sequence[float | None], factors: Sequence[float]) -> float | None:
    """Standard error of the mean of independent values, each times a factor; None where one is not known."""
    if any(error is None for error in errors):
        return None
    squares = [(error * factor) ** 2 for error, factor in zip(errors, factors, strict=True) if error is not None]
    return math.sqrt(sum(squares)) / len(errors)
