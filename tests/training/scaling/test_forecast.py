"""Intervals hold what they say; what cannot be fitted is told."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from tests.training.scaling.ladders import BESIROGLU, chinchilla, grid, run, slices
from training.scaling import (
    Run,
    ScalingError,
    analyse,
    bootstrap,
    check_design,
    fit_combined,
    fit_envelope,
    fit_isoflop,
    fit_parametric,
    fit_power,
    forecaster,
    usable,
)

BUDGETS = (1e18, 3e18, 9e18, 2.7e19)


def test_intervals_of_forecasts_hold_most_runs() -> None:
    """Of 12 ladders, each with noise of its own, the 90 % intervals hold the run that was not trained."""
    inside = 0
    parameters, tokens = 2.0e9, 4.0e10
    generator = np.random.default_rng(5)
    for seed in range(12):
        found = forecaster(slices(BESIROGLU, BUDGETS, noise=0.004, seed=seed), draws=50, seed=seed)
        forecast = found.forecast(parameters, tokens)
        truth = run(BESIROGLU, parameters, tokens, 0.004 * generator.standard_normal()).loss
        inside += forecast.holds(truth)
        assert forecast.low < forecast.loss < forecast.high
        assert abs(forecast.error(truth)) < 0.05
    assert inside >= 9


def test_forecast_says_how_far_it_reaches_and_what_it_tried() -> None:
    runs = slices(BESIROGLU, BUDGETS, noise=0.002)
    found = forecaster(runs, draws=50).forecast(2e9, 4e10, level=0.9)
    assert found.extrapolation == pytest.approx(2e9 * 4e10 / max(one.parameters * one.tokens for one in runs))
    assert found.backtest is not None
    assert set(found.backtest.runs) == {one.name for one in sorted(runs, key=lambda one: one.flops)[-5:]}
    assert found.spread >= found.backtest.spread
    wider = forecaster(runs, draws=50).forecast(2e9, 4e10, level=0.99)
    assert wider.low < found.low < found.high < wider.high


def test_bootstrap_holds_the_coefficients_and_is_the_same_again() -> None:
    runs = chinchilla(noise=0.004, count=60)
    for resample in ("residuals", "runs"):
        drawn = bootstrap(fit_parametric, runs, 5, draws=50, resample=resample)  # type: ignore[arg-type]
        low, high = drawn.interval(lambda law: law.alpha, 0.99)
        assert low < BESIROGLU.alpha < high, resample
        assert high - low < 0.2
    assert drawn.spread == pytest.approx(0.004, rel=0.3)
    again = bootstrap(fit_parametric, runs, 5, draws=50, resample="runs")
    assert again.laws == drawn.laws


def test_analysis_names_what_it_left_out_and_what_it_could_not_fit() -> None:
    runs = slices(BESIROGLU, BUDGETS, noise=0.003)
    lost = [Run("nan", 1e8, 1e9, 6e17, math.nan), Run("guessing", 1e8, 1e9, 6e17, 10.9)]
    found = analyse([*runs, *lost], {"broken": "diverged: by step 7"}, ceiling=math.log(50_000), draws=50)
    assert set(found.left_out) == {"nan", "guessing", "broken"}
    assert "10.900" in found.left_out["guessing"]
    assert {one.name for one in found.runs} == {one.name for one in runs}
    assert set(found.forecasters) == {"parametric", "combined"}
    assert set(found.frontiers()) == {"envelope", "isoflop", "parametric"} - set(found.problems)
    assert found.flops_per_parameter == pytest.approx(6)
    for name in found.frontiers():
        low, high = found.intervals[name]["a"]
        assert low < found.frontiers()[name].parameters_exponent + 0.05
        assert low < high
    json.dumps(found.to_dict(), allow_nan=False)


def test_what_cannot_be_fitted_is_refused_in_words() -> None:
    runs = slices(BESIROGLU, BUDGETS)
    with pytest.raises(ScalingError, match=r"at least 6 finished runs, there are 5"):
        fit_parametric(runs[:5])
    with pytest.raises(ScalingError, match=r"at least 3 different sizes, the 8 runs have 2"):
        fit_parametric(grid(BESIROGLU, (1e8, 1e9), (1e9, 2e9, 3e9, 4e9)))
    with pytest.raises(ScalingError, match=r"3 different token counts"):
        fit_combined(grid(BESIROGLU, (1e8, 2e8, 3e8, 4e8), (1e9, 2e9)))
    with pytest.raises(ScalingError, match="tokens follow the size"):
        check_design([run(BESIROGLU, n, 20 * n) for n in np.geomspace(1e7, 1e9, 8)])
    with pytest.raises(ScalingError, match=r"at least 3 points, it has 2"):
        fit_power("L(N)", [1e6, 1e7], [4, 3])
    with pytest.raises(ScalingError, match="loss that falls"):
        fit_power("L(N)", [1e6, 1e7, 1e8], [3, 4, 5])
    with pytest.raises(ScalingError, match="two budgets"):
        fit_isoflop(runs[:5])
    with pytest.raises(ScalingError, match="best size lies under the smallest"):
        fit_isoflop([run(BESIROGLU, n, c / 6 / n) for c in BUDGETS for n in (1e10, 2e10, 4e10)])
    with pytest.raises(ScalingError, match="two sizes with two token counts"):
        fit_envelope(grid(BESIROGLU, (1e8, 2e8), (1e9,)))
    with pytest.raises(ScalingError, match="overlap"):
        fit_envelope(grid(BESIROGLU, (1e6, 1e9), (1e9, 2e9)))
    with pytest.raises(ScalingError, match="6 or more, there are 5"):
        bootstrap(fit_parametric, runs[:5], 5)
    with pytest.raises(ScalingError, match=r"no run to fit: x: its loss is no number"):
        analyse([Run("x", 1e6, 1e6, 1e12, math.nan)])
    with pytest.raises(ScalingError, match="nothing can be fitted to 1 runs"):
        analyse(runs[:1])
    with pytest.raises(ScalingError, match="run x: tokens must be a positive number, got 0"):
        usable([Run("x", 1e6, 0, 1e12, 3.0)])
    with pytest.raises(ScalingError, match="run x: loss must be positive"):
        usable([Run("x", 1e6, 1, 1e12, -3.0)])
