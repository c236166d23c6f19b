from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flows.internet.optimum import optimal_parameters, optimum, scaling_fit
from flows.internet.recipe import OptimalConfig
from flows.studies.scaling.ladder import Ladder
from flows.studies.scaling.recipe import load_scaling_recipe
from flows.studies.scaling.results import Findings, results_of
from flows.studies.trial import Outcome, Trial
from tests.training.scaling.ladders import grid
from training.scaling import Parametric, analyse

# Besiroglu et al. 2024, "Chinchilla Scaling: A replication attempt".
FIT = {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658}


@pytest.mark.parametrize("tokens", [1e9, 1.4e12])
def test_the_optimal_size_is_that_of_a_search_over_the_budget(tokens: float) -> None:
    size = optimal_parameters(FIT, tokens)
    budget = 6 * size * tokens
    sizes = np.geomspace(size / 30, size * 30, 20_001)
    losses = FIT["E"] + FIT["A"] / sizes ** FIT["alpha"] + FIT["B"] / (budget / (6 * sizes)) ** FIT["beta"]
    assert size == pytest.approx(float(sizes[np.argmin(losses)]), rel=1e-3)


def test_without_a_fit_it_is_twenty_tokens_a_parameter(tmp_path: Path) -> None:
    assert scaling_fit(str(tmp_path)) is None
    best = optimum(2e11, OptimalConfig(device="h100", devices=8), None)
    assert best.parameters == pytest.approx(1e10)
    assert best.flops == pytest.approx(6 * 1e10 * 2e11)
    assert best.device_hours == pytest.approx(best.flops / (989e12 * 0.4) / 3600)
    assert best.hours == pytest.approx(best.device_hours / 8)
    assert best.loss is None


def test_the_newest_whole_fit_of_a_workspace_is_taken(tmp_path: Path) -> None:
    def write(study: str, text: str, age: float) -> None:
        folder = tmp_path / "studies" / study
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(text)
        os.utime(folder / "results.json", (age, age))

    def study(kind: str = "scaling", **law: float | None) -> str:
        """results.json as `headrace scaling` writes it, of runs that lie on FIT; with other coefficients in `law`."""
        results = {"kind": kind, **results_of(findings)}
        results["analysis"]["laws"]["parametric"] |= law
        return json.dumps(results)

    analysis = analyse(grid(Parametric(**FIT), (1e8, 4e8, 1.6e9), (1e9, 8e9, 6.4e10)), draws=2)
    outcome = Outcome(Trial("largest"), "finished", flops=6e20)
    findings = Findings(load_scaling_recipe("quickstart"), Ladder((), (), None), (outcome,), 10**12, analysis=analysis)
    nothing = {"kind": "scaling", **results_of(replace(findings, analysis=None, problem="too few runs"))}
    write("old-1", study(E=1.0), 1e9)
    write("new-2", study(), 2e9)
    write("broken-3", "{", 3e9)
    write("search-4", study("search"), 3e9)
    write("negative-5", study(beta=-1.0), 3e9)
    write("none-6", study(beta=None), 3e9)
    write("nothing-7", json.dumps(nothing), 3e9)
    found = scaling_fit(str(tmp_path))
    assert found is not None
    assert found.law == pytest.approx(FIT, rel=0.01)
    assert (found.study, found.tokens) == ("new-2", 6.4e10)
    best = optimum(1.4e12, OptimalConfig(), found)
    assert best.parameters == pytest.approx(optimal_parameters(FIT, 1.4e12), rel=0.1)
    assert best.loss is not None
    assert 1.8172 < best.loss < 2.1
    assert best.basis == "fit of new-2, carried to 21.9 times its tokens"
    far = optimum(1e14, OptimalConfig(), found)
    assert (far.parameters, far.loss) == (1e14 / 20, None)
    assert "the fit of new-2 ends at 6.4e+10 tokens" in far.basis
    assert optimum(1e14, OptimalConfig(furthest=1e9), found).loss is not None


def test_a_device_of_no_known_peak_is_refused() -> None:
    with pytest.raises(ValueError, match="peak of CPU of this machine is not known"):
        optimum(1e9, OptimalConfig(device="cpu"), None)
