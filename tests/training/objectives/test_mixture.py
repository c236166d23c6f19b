"""Several objectives at once: the weighted sum of what each is alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.test_objective_runs import run_of
from training import objectives
from training.config import ObjectiveConfig, from_dict
from training.loader import TrainLoader, ValidationLoader, as_tensors
from training.models import build
from training.trainer import setting_of


def test_the_loss_is_the_weighted_sum(tmp_path: Path) -> None:
    run = run_of("unilm", tmp_path)
    torch.manual_seed(0)
    model = build(run.model, run.model_vocabulary).eval()
    mixed = objectives.build(run.objective, setting_of(run))
    rows = as_tensors(TrainLoader(run.shards("train"), mixed.form(32), 4, 1).batch(0))
    expected = 0.0
    for part in run.objective.all:
        alone = objectives.build(dataclasses.replace(part, also=()), setting_of(run))
        alone_rows = as_tensors(TrainLoader(run.shards("train"), alone.form(32), 4, 1).batch(0))
        expected += part.weight * float(alone.loss(model, alone.prepare(alone_rows)).detach())
    assert float(mixed.loss(model, mixed.prepare(rows)).detach()) == pytest.approx(expected, rel=1e-5)


def test_rows_without_anything_to_predict_do_not_count(tmp_path: Path) -> None:
    run = run_of("unilm", tmp_path)
    model = build(run.model, run.model_vocabulary).eval()
    mixed = objectives.build(run.objective, setting_of(run))
    loader = ValidationLoader(run.shards("validation"), mixed.form(32), 5, run.end_of_text)

    def measured(processes: int) -> dict[str, float]:
        totals: dict[str, np.ndarray] = {}
        for rank in range(processes):
            for part in loader.batches(2, rank, processes):
                batch = mixed.prepare(as_tensors(part.rows), training=False)
                for name, found in mixed.evaluate(model, batch).items():
                    sums = np.array([float(tensor.sum()) for tensor in found])
                    totals[name] = totals.get(name, np.zeros(2)) + sums
        return {name: sums / count for name, (sums, count) in totals.items()}

    # With two processes one has a row less, and fills up with nothing.
    assert len(loader) % 2
    assert measured(2) == pytest.approx(measured(1))


def test_an_objective_stands_once() -> None:
    with pytest.raises(ValueError, match="each objective may stand once, got masked, masked"):
        from_dict(ObjectiveConfig, {"name": "masked", "also": [{"name": "masked"}]})
