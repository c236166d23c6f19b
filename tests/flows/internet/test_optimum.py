from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from flows.internet.optimum import optimal_parameters, optimum, scaling_fit
from flows.internet.recipe import OptimalConfig

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

    write("old-1", json.dumps({"chinchilla": {**FIT, "E": 1.0}}), 1e9)
    write("new-2", json.dumps({"kind": "scaling", "chinchilla": FIT}), 2e9)
    write("broken-3", "{", 3e9)
    write("search-4", json.dumps({"kind": "search", "chinchilla": FIT}), 3e9)
    write("negative-5", json.dumps({"chinchilla": {**FIT, "beta": -1}}), 3e9)
    write("nothing-6", json.dumps({"chinchilla": None}), 3e9)
    found = scaling_fit(str(tmp_path))
    assert found == (FIT, "new-2")
    best = optimum(1.4e12, OptimalConfig(), found)
    assert best.parameters == pytest.approx(optimal_parameters(FIT, 1.4e12))
    assert best.loss is not None
    assert 1.8172 < best.loss < 2.1
    assert "new-2" in best.basis


def test_a_device_of_no_known_peak_is_refused() -> None:
    with pytest.raises(ValueError, match="peak of CPU of this machine is not known"):
        optimum(1e9, OptimalConfig(device="cpu"), None)
