from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.transfer import movement, optimum

RATES = [2.0**power for power in range(-9, -2)]


@given(st.floats(-8.4, -3.6), st.floats(0.01, 2), st.floats(1, 8))
def test_optimum_is_the_vertex_of_a_parabola(vertex: float, bend: float, least: float) -> None:
    losses = [least + bend * (math.log2(rate) - vertex) ** 2 for rate in RATES]
    found = optimum(RATES, losses)
    assert math.log2(found.rate) == pytest.approx(vertex, abs=1e-4)
    assert found.loss == pytest.approx(least, abs=1e-4)
    assert found.edge == ""
    assert abs(math.log2(found.best_tried) - vertex) < 0.501


@given(st.lists(st.floats(1, 9), min_size=4, max_size=7, unique=True))
def test_optimum_is_numpys_whatever_the_order(losses: list[float]) -> None:
    rates = [0.001 * 1.7**index for index in range(len(losses))]
    shuffled = sorted(zip(rates, losses, strict=True), key=lambda pair: hash(pair))
    found = optimum([rate for rate, _ in shuffled], [loss for _, loss in shuffled])
    place = int(np.argmin(losses))
    assert found.best_tried == pytest.approx(rates[place])
    if place in (0, len(losses) - 1):
        assert found.edge == ("lowest" if place == 0 else "highest")
        assert (found.rate, found.loss) == (pytest.approx(rates[place]), losses[place])
        return
    near = slice(place - 1, place + 2)
    a, b, c = np.polyfit(np.log2(rates[near]), losses[near], 2)
    assert rates[place - 1] < found.rate < rates[place + 1]
    assert found.loss == pytest.approx(c - b * b / (4 * a), abs=1e-4)


def test_what_did_not_finish_is_left_out() -> None:
    whole = optimum([1, 2, 4, 8], [3.0, 2.0, 3.0, math.nan])
    assert (whole.rate, whole.edge) == (pytest.approx(2.0), "")
    assert optimum([1, 2, 4], [2.0, 2.0, 2.0]).loss == 2.0


@pytest.mark.parametrize(
    ("losses", "edge"),
    [
        ([4.0, 3.0, 2.0, math.inf], ""),
        ([4.0, 3.0, 2.0, math.nan], "highest"),
        ([4.0, 3.0, 2.0, math.nan, math.inf], "highest"),
        ([4.0, 3.0, 2.0, 1.0], "highest"),
        ([math.inf, 2.0, 3.0, 4.0], "lowest"),
    ],
)
def test_a_best_rate_below_one_that_diverged_is_no_edge(losses: list[float], edge: str) -> None:
    found = optimum([2.0**power for power in range(len(losses))], losses)
    assert (found.rate, found.edge) == (found.best_tried, edge)


@pytest.mark.parametrize(
    ("rates", "losses", "message"),
    [
        ([1, 2], [1.0, 2.0], "losses at three rates at least, got 2"),
        ([1, 2, 4], [1.0, math.nan, math.inf], "losses at three rates at least, got 1"),
        ([1, 2, 4], [1.0, 2.0], "3 rates, but 2 losses"),
        ([0, 2, 4], [1.0, 2.0, 3.0], "learning rates must be positive numbers, got 0, 2, 4"),
        ([2, 2, 4], [1.0, 2.0, 3.0], "a rate stands in the sweep twice"),
    ],
)
def test_sweeps_without_an_optimum(rates: list[float], losses: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        optimum(rates, losses)


def test_movement_is_the_slope_of_the_logarithms() -> None:
    assert movement([32, 64, 128, 256], [0.08, 0.04, 0.02, 0.01]) == pytest.approx(-1)
    sizes, rates = [2, 4, 16], [0.1, 0.15, 0.11]
    assert movement(sizes, rates) == pytest.approx(np.polyfit(np.log2(sizes), np.log2(rates), 1)[0])
    with pytest.raises(ValueError, match="optima at two sizes at least, got 1"):
        movement([32, 32], [0.1, 0.1])
