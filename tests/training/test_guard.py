"""The guard alone against a plain calculation, and in real runs whose weights or gradients are spoiled on purpose."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import training.run
from tests.training.tiny_run import changed, journal, make_run
from training.callbacks import Callback, Rollback
from training.callbacks.guard import DEVIATION_FLOOR, Guard
from training.callbacks.training_metrics import TrainingMetrics
from training.config import TrainingRun
from training.config.run import GuardConfig
from training.trainer import Trainer


class Judged:
    """A guard that is handed losses instead of a run's."""

    def __init__(self, **config: Any) -> None:
        self.metrics = TrainingMetrics()
        self.guard = Guard(GuardConfig(**config), self.metrics)
        self.told: list[dict[str, Any]] = []
        self.trainer: Any = SimpleNamespace(step=0, rollbacks=[], skipped_steps=[], report=self._report)

    def _report(self, event: str, **facts: Any) -> None:
        self.told.append({"event": event, **facts})

    def see(self, losses: Sequence[float]) -> dict[str, float]:
        """Losses of the next steps, read all at once."""
        self.metrics.losses = list(losses)
        self.trainer.step += len(losses)
        row = {"train/tokens_per_second": 1.0}
        self.guard.on_step_end(self.trainer, row)
        return row


@given(st.lists(st.floats(-2.0, 1e3), min_size=8, max_size=60), st.floats(1.0, 12.0), st.integers(1, 4))
def test_spikes_are_those_of_a_plain_calculation(losses: list[float], score: float, in_a_row: int) -> None:
    accepted: list[float] = []
    spikes, wanted = 0, None
    for step, loss in enumerate(losses, 1):
        window = np.array(accepted[-8:])
        floor = DEVIATION_FLOOR * max(1.0, abs(window.mean())) if len(window) == 8 else 0.0
        if len(window) == 8 and loss > window.mean() + score * max(window.std(), floor) + 1e-9:
            spikes += 1
            if spikes == in_a_row:
                wanted = (step, step - in_a_row)
                break
        else:
            spikes = 0
            accepted.append(loss)
    judged = Judged(spike_window=8, spike_score=score, spike_steps=in_a_row)
    found = None
    for step, loss in enumerate(losses, 1):
        try:
            judged.see([loss])
        except Rollback as wish:
            found = (step, wish.before_step)
            break
    assert found == wanted


def test_a_flat_loss_has_no_spikes_from_noise() -> None:
    judged = Judged(spike_window=8, spike_steps=1, spike_score=10.0)
    judged.see([0.5] * 20 + [0.5001, 0.59])
    with pytest.raises(Rollback, match=r"step 23, 0\.9, is spike 1 in a row: .* above the mean 0\.5"):
        judged.see([0.9])


@pytest.mark.parametrize("at_once", [1, 5, 30])
def test_the_verdict_does_not_depend_on_how_many_losses_are_read_at_once(at_once: int) -> None:
    judged = Judged(spike_window=8, spike_steps=3)
    losses = [2.0] * 12 + [9.0, 9.0, 2.0, math.nan, 9.0, math.nan, 9.0, 9.0] + [2.0] * 10

    def see_all() -> None:
        for begin in range(0, len(losses), at_once):
            judged.see(losses[begin : begin + at_once])

    with pytest.raises(Rollback) as raised:
        see_all()
    assert raised.value.before_step == 16
    assert [event["step"] for event in judged.told] == [16, 18]
    assert {event["event"] for event in judged.told} == {"warning"}


def test_its_state_goes_on() -> None:
    first, second = Judged(spike_window=8, skipped_steps=3), Judged(spike_window=8, skipped_steps=3)
    first.see([2.0] * 10 + [50.0, 50.0, math.nan, math.nan])
    second.guard.load_state(json.loads(json.dumps(first.guard.state())))
    second.trainer.step = first.trainer.step
    assert second.guard.state() == first.guard.state()
    with pytest.raises(FloatingPointError, match="the loss became nan by step 16"):
        second.see([math.nan, math.nan])
    second.guard.load_state(first.guard.state())
    second.trainer.step = 14
    with pytest.raises(Rollback) as raised:
        second.see([50.0])
    assert raised.value.before_step == 10


def test_a_spike_right_after_a_rollback_goes_further_back() -> None:
    judged = Judged(spike_window=8, spike_steps=2, rollbacks=2)
    judged.see([2.0] * 30)
    state = judged.guard.state()
    judged.trainer.rollbacks = [{"step": 33, "to": 20}]
    judged.trainer.step = 20
    with pytest.raises(Rollback) as raised:
        judged.see([9.0, 9.0])
    assert raised.value.before_step == 19
    judged.trainer.rollbacks.append({"step": 22, "to": 10})
    judged.guard.load_state(state)
    with pytest.raises(FloatingPointError, match="gone back 2 times, training.guard.rollbacks allows 2"):
        judged.see([9.0, 9.0])


def test_where_there_is_no_way_back_the_window_fills_anew() -> None:
    judged = Judged(spike_window=8, spike_steps=2, rollbacks=3)
    judged.see([2.0] * 8)
    with pytest.raises(Rollback):
        judged.see([9.0, 9.0])
    judged.guard.on_rollback(judged.trainer)  # type: ignore[arg-type]
    judged.trainer.rollbacks.append({"step": 10, "to": None})
    judged.see([9.0] * 50)


def test_no_score_looks_for_nothing() -> None:
    Judged(spike_window=8, spike_score=0.0).see([2.0] * 20 + [1e9] * 20)


class Spoil(Callback):
    """Spoils gradients (NaN) or weights (a head 100 times as large) of steps, each as often as it says."""

    name = "spoil"

    def __init__(self, gradients: Sequence[int] = (), weights: Sequence[int] = (), times: int = 1) -> None:
        self._gradients, self._weights, self._times = gradients, weights, times
        self.trainer: Trainer | None = None

    def on_step_start(self, trainer: Trainer) -> None:
        self.trainer = trainer
        if trainer.step in self._weights and self._times:
            self._times -= 1
            with torch.no_grad():
                trainer.model.head.weight.mul_(100)

    def on_gradients(self, trainer: Trainer) -> None:
        if trainer.step + 1 in self._gradients:
            gradient = trainer.model.norm.weight.grad
            assert gradient is not None
            gradient[0] = torch.nan


@pytest.fixture
def spoiled(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs to its end with something spoiled; returns the events."""
    ours = training.run._callbacks

    def run(run: TrainingRun, spoil: Spoil) -> list[dict[str, Any]]:
        monkeypatch.setattr(training.run, "_callbacks", lambda *arguments: [spoil, *ours(*arguments)])
        try:
            training.run.train(run)
        finally:
            events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        return events

    return run


def test_a_step_without_a_number_is_skipped_told_and_left_out_of_the_mean(tmp_path: Path, spoiled: Any) -> None:
    run = make_run(tmp_path, log_every=1)
    kept: dict[int, list[torch.Tensor]] = {}

    class Keep(Spoil):
        def on_step_end(self, trainer: Trainer, row: Any) -> None:
            kept[trainer.step] = [parameter.detach().clone() for parameter in trainer.model.parameters()]

    events = spoiled(run, Keep(gradients=[5, 6]))
    warnings = [event for event in events if event["event"] == "warning"]
    assert [(event["step"], event["loss"]) for event in warnings] == [(5, "nan"), (6, "nan")]
    for before, after in ((4, 5), (5, 6)):
        assert all(torch.equal(a, b) for a, b in zip(kept[before], kept[after], strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(kept[6], kept[7], strict=True))
    rows = {line["step"]: line["metrics"] for line in journal(run)}
    assert [rows[step]["train/skipped_steps"] for step in (4, 5, 6, 12)] == [0.0, 1.0, 2.0, 2.0]
    assert "train/loss" not in rows[5]
    assert math.isfinite(rows[7]["train/loss"])
    progress = {event["step"]: event for event in events if event["event"] == "progress"}
    assert "loss" not in progress[5]
    assert progress[12]["skipped_steps"] == 2

    whole = changed(run, "training", log_every=12)
    spoiled(changed(whole, output_dir=str(tmp_path / "whole")), Spoil(gradients=[5, 6]))
    (row,) = [line["metrics"] for line in journal(changed(whole, output_dir=str(tmp_path / "whole")))[-1:]]
    finite = [rows[step]["train/loss"] for step in rows if "train/loss" in rows[step]]
    assert row["train/loss"] == pytest.approx(sum(finite) / 10)


def test_too_many_of_them_end_the_run(tmp_path: Path, spoiled: Any) -> None:
    run = make_run(tmp_path, guard=GuardConfig(skipped_steps=2))
    spoiled(run, Spoil(gradients=[3, 4, 6, 7]))
    with pytest.raises(FloatingPointError, match="the loss became nan by step 8"):
        spoiled(changed(run, output_dir=str(tmp_path / "more")), Spoil(gradients=range(6, 12)))


SPIKY = {"steps": 40, "log_every": 1, "guard": GuardConfig(spike_window=8, spike_steps=2, rollbacks=2)}


def test_a_spike_goes_back_and_leaves_no_trace_in_the_journal(tmp_path: Path, spoiled: Any) -> None:
    run = make_run(tmp_path, **SPIKY)
    spoil = Spoil(weights=[26])
    events = spoiled(run, spoil)
    (back,) = [event for event in events if event["event"] == "rollback"]
    assert (back["step"], back["to"]) == (28, 24)
    assert spoil.trainer is not None
    assert len(spoil.trainer.rollbacks) == 1
    steps = [line["step"] for line in journal(run)]
    assert steps == list(range(1, 41))
    rows = {line["step"]: line["metrics"]["train/loss"] for line in journal(run)}
    assert max(rows[step] for step in range(20, 41)) < 5.0
    assert events[-1]["event"] == "finished"


def test_a_run_that_spikes_on_and_on_gives_up_and_keeps_its_checkpoints(tmp_path: Path, spoiled: Any) -> None:
    run = make_run(tmp_path, **SPIKY)
    with pytest.raises(FloatingPointError, match="gone back 2 times"):
        spoiled(run, Spoil(weights=[26], times=9))
    assert (Path(run.output_dir) / "checkpoints" / "step-00000024").is_dir()
    # With a larger budget the same command goes on.
    more = changed(run, "training", guard=GuardConfig(spike_window=8, spike_steps=2, rollbacks=3))
    assert spoiled(more, Spoil())[-1]["event"] == "finished"
