"""Fits give back the published coefficients from data simulated with them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.training.scaling.ladders import BESIROGLU, KAPLAN, chinchilla, grid, run, slices
from training.scaling import (
    Combined,
    Parametric,
    fit_combined,
    fit_envelope,
    fit_isoflop,
    fit_parametric,
    fit_power,
)
from training.scaling.kaplan import limit


def test_parametric_law_comes_back_from_clean_data() -> None:
    found = fit_parametric(chinchilla())
    for name, value in BESIROGLU.coefficients().items():
        assert found.coefficients()[name] == pytest.approx(value, rel=1e-6), name


def test_parametric_law_comes_back_from_noisy_data_despite_outliers() -> None:
    runs = chinchilla(noise=0.004)
    runs[::40] = [one.with_loss(1.2 * one.loss) for one in runs[::40]]
    found = fit_parametric(runs)
    assert abs(found.E - BESIROGLU.E) < 0.05
    assert found.alpha == pytest.approx(BESIROGLU.alpha, abs=0.03)
    assert found.beta == pytest.approx(BESIROGLU.beta, abs=0.03)
    squares = _least_squares(runs)
    assert abs(found.E - BESIROGLU.E) < abs(squares.E - BESIROGLU.E)


def _least_squares(runs: list) -> Parametric:  # type: ignore[type-arg]
    """Without Huber's kink every point counts by its square."""
    return fit_parametric(runs, delta=1e3)


def test_no_other_method_finds_a_lower_loss() -> None:
    from scipy.optimize import minimize

    runs = slices(BESIROGLU, (1e18, 4e18, 1.6e19), noise=0.01)
    found = fit_parametric(runs)

    def objective(theta: np.ndarray) -> float:
        law = Parametric(math.exp(theta[0]), math.exp(theta[1]), math.exp(theta[2]), theta[3], theta[4])
        scaled = [(math.log(float(law.loss(one.parameters, one.tokens))) - math.log(one.loss)) / 1e-3 for one in runs]
        return sum(0.5 * r * r if abs(r) <= 1 else abs(r) - 0.5 for r in scaled)

    start = [math.log(found.E), math.log(found.A), math.log(found.B), found.alpha, found.beta]
    assert objective(np.array(start)) == pytest.approx(found.objective, rel=1e-9)
    for shift in (0.0, 0.05):
        options = {"maxiter": 1500, "xatol": 1e-9, "fatol": 1e-9}
        other = minimize(objective, np.array(start) * (1 + shift), method="Nelder-Mead", options=options)
        assert other.fun > found.objective * (1 - 1e-4)


def test_compute_optimum_is_where_no_other_size_is_better() -> None:
    flops = 5.76e23
    best = BESIROGLU.optimum(flops)
    assert 6 * best.parameters * best.tokens == pytest.approx(flops)
    assert 15 < best.tokens_per_parameter < 35  # about 20, as Besiroglu et al. find
    sizes = best.parameters * np.geomspace(0.5, 2, 201)
    losses = BESIROGLU.loss(sizes, flops / 6 / sizes)
    assert abs(int(np.argmin(losses)) - 100) <= 1
    dearer = BESIROGLU.optimum(flops, flops_per_parameter=7.0)
    assert 7 * dearer.parameters * dearer.tokens == pytest.approx(flops)


def test_kaplans_laws_of_one_variable() -> None:
    """Equations 1.1 to 1.3, with the units of the paper."""
    for what, scale, exponent, x in (
        ("L(N)", 8.8e13, 0.076, np.geomspace(1e3, 1e9, 7)),
        ("L(D)", 5.4e13, 0.095, np.geomspace(2e7, 2e10, 5)),
        ("L(C)", 3.1e8, 0.050, np.geomspace(1e-6, 10, 6)),
    ):
        found = fit_power(what, x, (scale / x) ** exponent)
        assert found.exponent == pytest.approx(exponent, rel=1e-9)
        assert found.scale == pytest.approx(scale, rel=1e-6)
        assert found.loss(x[0]) == pytest.approx((scale / x[0]) ** exponent)


def test_kaplans_law_of_size_and_tokens() -> None:
    runs = grid(KAPLAN, np.geomspace(4e5, 7e8, 6), np.geomspace(2e7, 2.2e10, 6))
    found = fit_combined(runs)
    for name, value in KAPLAN.coefficients().items():
        assert found.coefficients()[name] == pytest.approx(value, rel=1e-6), name
    near = fit_combined(runs, near=Combined(1e13, 1e13, 0.1, 0.1))
    assert near.coefficients() == pytest.approx(found.coefficients(), rel=1e-6)


def test_points_of_a_limit_are_those_that_none_undercuts() -> None:
    runs = grid(BESIROGLU, (1e7, 1e8, 1e9), (1e9, 1e10))
    assert [one.tokens for one in limit(runs, "parameters")] == [1e10] * 3
    assert [one.parameters for one in limit(runs, "tokens")] == [1e9] * 2
    worse = run(BESIROGLU, 3e9, 1e9, noise=0.5)
    assert worse not in limit([*runs, worse], "flops")


def test_isoflop_parabolas_find_the_best_size() -> None:
    budgets = (1e19, 1e20, 1e21)
    runs = []
    for flops in budgets:
        middle = BESIROGLU.optimum(flops).parameters
        for size in middle * np.array([0.4, 0.65, 1.1, 1.6, 2.4]):
            runs.append(run(BESIROGLU, size, flops / 6 / size))
    found = fit_isoflop(runs)
    a = BESIROGLU.coefficients()["a"]
    assert found.frontier.parameters_exponent == pytest.approx(a, abs=0.01)
    assert found.frontier.tokens_exponent == pytest.approx(1 - a, abs=0.01)
    for valley, flops in zip(found.valleys, budgets, strict=True):
        assert valley.parameters == pytest.approx(BESIROGLU.optimum(flops).parameters, rel=0.1)
        assert 6 * valley.parameters * valley.tokens == pytest.approx(flops, rel=0.02)
        assert float(valley.loss_at(valley.parameters)) == pytest.approx(valley.loss)


def test_envelope_finds_how_the_best_size_grows() -> None:
    sizes = np.geomspace(4e7, 4e9, 12)
    runs = [
        run(BESIROGLU, size, flops / 6 / size) for size in sizes for flops in 120 * size**2 * np.geomspace(0.05, 20, 8)
    ]
    found = fit_envelope(runs)
    a = BESIROGLU.coefficients()["a"]
    assert found.frontier.parameters_exponent == pytest.approx(a, abs=0.02)
    assert found.frontier.optimum(1e20).parameters == pytest.approx(BESIROGLU.optimum(1e20).parameters, rel=0.15)
    assert np.all(np.diff(found.loss) < 0)
    assert np.all(np.diff(found.parameters) >= 0)
