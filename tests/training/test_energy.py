"""What a training says that it has used."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from tests.training.energy.test_meter import zone
from tests.training.tiny_run import journal, make_run
from training import run as run_module
from training.callbacks import Callback
from training.energy import Meter
from training.run import train
from training.trainer import Stopped, Trainer


def test_processor_time_and_names_are_part_of_the_result(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    result = train(run)
    assert json.loads(Path(run.output_dir, "result.json").read_text()) == result
    rows = [line["metrics"]["train/cpu_seconds"] for line in journal(run) if "train/loss" in line["metrics"]]
    assert rows == sorted(rows)
    assert 0 < rows[0] < rows[-1] <= result["cpu_seconds"]
    assert result["device_name"]
    assert result["host_memory_bytes"] > 10_000_000


def test_a_run_that_was_stopped_counts_what_it_used_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = zone(tmp_path / "powercap", "intel-rapl:0", "package-0", 0)
    used = 0

    class Burns(Callback):
        """A joule a step."""

        name = "burns"

        def on_step_start(self, trainer: Trainer) -> None:
            nonlocal used
            used += 1_000_000
            counter.write_text(str(used))

    callbacks = run_module._callbacks
    monkeypatch.setattr(run_module, "_callbacks", lambda *given: [Burns(), *callbacks(*given)])
    monkeypatch.setattr(run_module, "meter_of", lambda device, world: Meter(root=tmp_path / "powercap"))
    run = make_run(tmp_path)
    steps = run.training.steps
    trainers: list[Trainer] = []

    def stop_soon(trainer: Trainer) -> None:
        trainers.append(trainer)
        trainer.stop()

    with pytest.raises(Stopped):
        train(run, stop_soon)
    assert trainers[0].step < steps
    # What a machine draws between two processes of a run is not the run's.
    counter.write_text(str(used := used + 50_000_000))
    result = train(run)
    assert result["cpu_joules"] == pytest.approx(steps)
    assert result["cpu_meter"] == "RAPL, whole packages"
    joules = [line["metrics"]["train/cpu_joules"] for line in journal(run) if "train/loss" in line["metrics"]]
    assert joules[-1] == pytest.approx(steps)
    # A part that the first process did not meter is left out: half a sum says nothing.
    other = make_run(tmp_path / "other")
    monkeypatch.setattr(run_module, "meter_of", lambda device, world: Meter(root=tmp_path / "none"))
    with pytest.raises(Stopped):
        train(other, lambda trainer: trainer.stop())
    monkeypatch.setattr(run_module, "meter_of", lambda device, world: Meter(root=tmp_path / "powercap"))
    assert "cpu_joules" not in train(dataclasses.replace(other))
