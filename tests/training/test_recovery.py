"""What a run does when something goes wrong on the way: it is told to stop, a gradient is no number, it goes back."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.tiny_run import changed, final_weights, journal, losses, make_run, start, write_config
from training import checkpoints
from training import run as run_module
from training import trainer as trainer_module
from training.callbacks import Callback, Rollback, Row
from training.callbacks.journal import StepLines
from training.config import TrainingRun
from training.run import train
from training.trainer import ROLLBACKS, Stopped, Trainer


@pytest.fixture(autouse=True)
def quiet(capsys: pytest.CaptureFixture[str]) -> None:
    """Keep the progress lines of runs in this process out of the report."""


class Crash(Exception):
    pass


def train_with(run: TrainingRun, callback: Callback, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Train with one more callback, before all others."""
    usual: Callable[..., list[Callback]] = run_module._callbacks
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "_callbacks", lambda *arguments: [callback, *usual(*arguments)])
        return train(run)


def events(output: str, name: str) -> list[dict[str, Any]]:
    return [event for event in map(json.loads, output.splitlines()) if event["event"] == name]


# Told to stop.


def test_sigterm_writes_a_checkpoint_and_the_next_start_ends_with_the_same_bytes(tmp_path: Path) -> None:
    run = make_run(tmp_path, steps=150, log_every=7, checkpoint_every=1000, evaluate_every=50)
    reference = changed(run, output_dir=str(tmp_path / "reference"))
    train(reference)
    config = write_config(run, tmp_path / "run.json")
    with start(config) as process:
        assert process.stdout is not None
        told: list[dict[str, Any]] = []
        for line in process.stdout:
            if json.loads(line)["event"] == "progress" and told[-1]["event"] == "start":
                os.kill(process.pid, signal.SIGTERM)
            told.append(json.loads(line))
    assert process.returncode == 75
    assert told[-1]["event"] == "stopped"
    (path,) = checkpoints.list_checkpoints(Path(run.output_dir) / "checkpoints")
    assert checkpoints.step_of(path) == told[-1]["step"] < 150
    train(run)
    assert final_weights(run) == final_weights(reference)
    assert losses(run) == losses(reference)


def test_a_stop_between_two_lines_of_the_journal_loses_no_loss(tmp_path: Path) -> None:
    run = make_run(tmp_path, steps=8, log_every=4, checkpoint_every=8, evaluate_every=8)
    reference = changed(run, output_dir=str(tmp_path / "reference"))
    train(reference)
    for _ in range(3):  # a step or two at a time
        with pytest.raises(Stopped):
            train(run, lambda trainer: trainer.stop())
    train(run)
    assert losses(run) == losses(reference)
    assert final_weights(run) == final_weights(reference)


# A gradient that is no number.


class Poison(Callback):
    """Makes a gradient NaN before the update of some steps, and notes the weights around it."""

    name = "poison"

    def __init__(self, *steps: int) -> None:
        self.steps = steps
        self.unchanged: list[bool] = []
        self._before: dict[str, torch.Tensor] = {}

    def on_gradients(self, trainer: Trainer) -> None:
        self._before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
        if trainer.step + 1 in self.steps:
            gradient = trainer.model.blocks[0].attention.qkv.weight.grad
            assert isinstance(gradient, torch.Tensor)
            gradient[0, 0] = torch.nan

    def on_step_end(self, trainer: Trainer, row: Row) -> None:
        after = trainer.model.state_dict()
        self.unchanged.append(all(torch.equal(after[name], value) for name, value in self._before.items()))


@pytest.mark.parametrize("optimizer", ["muon", "adamw", "sgd", "lion"])
def test_a_step_whose_gradient_is_no_number_changes_nothing_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], optimizer: str
) -> None:
    run = changed(make_run(tmp_path, ema_decay=0.9), "optimizer", name=optimizer)
    poison = Poison(5, 6)
    result = train_with(run, poison, monkeypatch)
    assert [step for step, same in enumerate(poison.unchanged, 1) if same] == [5, 6]
    assert result["skipped_steps"] == [5, 6]
    told = capsys.readouterr().out
    assert "5" in " ".join(event["message"] for event in events(told, "warning"))
    row = next(line["metrics"] for line in journal(run) if line["step"] == 6)
    assert row["train/loss"] == row["train/loss"]


def test_too_many_skipped_steps_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path, checkpoint_every=1, keep=20)
    guard = changed(run.training, None, guard=type(run.training.guard)(skipped_steps=3))  # type: ignore[arg-type]
    run = changed(run, training=guard)
    with pytest.raises(FloatingPointError, match="became nan by step 7"):
        train_with(run, Poison(*range(4, 20)), monkeypatch)
    assert not (Path(run.output_dir) / "result.json").exists()


# Going back.


class GoBack(Callback):
    """Asks once, after a step, to go back before another; may crash later."""

    name = "go-back"

    def __init__(self, at: int, before: int, crash_at: int | None = None) -> None:
        self.at, self.before, self.crash_at = at, before, crash_at
        self.batches: list[tuple[int, int]] = []

    def on_step_end(self, trainer: Trainer, row: Row) -> None:
        self.batches.append((trainer.step, trainer._batch_index(trainer.step - 1)))
        if trainer.step == self.at and len(trainer.rollbacks) == 0:
            raise Rollback(self.before, "for a test")
        if trainer.step == self.crash_at and trainer.rollbacks:
            raise Crash


def test_going_back_leaves_out_the_batches_that_led_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path, log_every=1)
    back = GoBack(at=7, before=6)
    result = train_with(run, back, monkeypatch)
    assert back.batches == [
        *((step, step - 1) for step in range(1, 8)),
        *((step, step + 2) for step in range(5, 13)),
    ]
    (entry,) = result["rollbacks"]
    assert (entry["step"], entry["to"], entry["batches"]) == (7, 4, 3)
    (told,) = events(capsys.readouterr().out, "rollback")
    assert (told["step"], told["to"], told["message"]) == (7, 4, "for a test")
    assert [line["step"] for line in journal(run)] == list(range(1, 13))


@pytest.mark.parametrize("crash_at", [5, 9])
def test_a_crash_after_going_back_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crash_at: int
) -> None:
    """Before the next checkpoint only rollbacks.json knows of it; after it the checkpoint does."""
    run = make_run(tmp_path, log_every=1)
    reference = changed(run, output_dir=str(tmp_path / "reference"))
    train_with(reference, GoBack(at=7, before=6), monkeypatch)
    with pytest.raises(Crash):
        train_with(run, GoBack(at=7, before=6, crash_at=crash_at), monkeypatch)
    assert len(json.loads(Path(run.output_dir, ROLLBACKS).read_text())) == 1
    train(run)
    assert final_weights(run) == final_weights(reference)
    assert losses(run) == losses(reference)


def test_going_back_twice_never_sees_a_bad_batch_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path, log_every=1, keep=9)
    back = GoBackTwice()
    train_with(run, back, monkeypatch)
    # To step 8 with batches 8 and 9 left out, then further back to 4: all that had been read so far is left out.
    assert back.batches[:10] == [(step, step - 1) for step in range(1, 11)]
    assert back.batches[10:12] == [(9, 10), (10, 11)]
    assert back.batches[12:] == [(step, step + 7) for step in range(5, 13)]


class GoBackTwice(GoBack):
    def __init__(self) -> None:
        super().__init__(at=10, before=9)

    def on_step_end(self, trainer: Trainer, row: Row) -> None:
        self.batches.append((trainer.step, trainer._batch_index(trainer.step - 1)))
        if trainer.step == 10 and len(trainer.rollbacks) < 2:
            raise Rollback((9, 7)[len(trainer.rollbacks)], "for a test")


def test_with_nothing_to_go_back_to_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path)
    result = train_with(run, GoBack(at=3, before=2), monkeypatch)
    assert result["step"] == 12
    assert "no checkpoint before it" in events(capsys.readouterr().out, "warning")[0]["message"]


def test_with_nothing_to_go_back_to_at_the_last_step_the_step_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, steps=3, log_every=1)
    result = train_with(run, GoBack(at=3, before=2), monkeypatch)
    assert result["step"] == 3
    assert [line["step"] for line in journal(run)] == [1, 2, 3]


def test_a_crash_before_the_rollback_is_noted_leaves_no_spoiled_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, log_every=1)

    def crash(path: Path, content: str) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(trainer_module, "write_file", crash)
        with pytest.raises(Crash):
            train_with(run, GoBack(at=9, before=6), monkeypatch)
    (left,) = checkpoints.list_checkpoints(Path(run.output_dir) / "checkpoints")
    assert checkpoints.step_of(left) == 4


def test_when_no_checkpoint_is_whole_the_run_does_not_begin_anew(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with pytest.raises(Stopped):
        train(run, lambda trainer: trainer.stop())
    (path,) = checkpoints.list_checkpoints(Path(run.output_dir) / "checkpoints")
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    for _ in range(2):
        with pytest.raises(checkpoints.CheckpointError, match="no checkpoint in .* is whole"):
            train(run)
    assert path.exists()
    assert journal(run) == []


def test_a_disk_that_cannot_be_read_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path)
    with pytest.raises(Stopped):
        train(run, lambda trainer: trainer.stop())

    def broken(*arguments: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", broken)
        with pytest.raises(checkpoints.CheckpointError, match="cannot be read: Input/output error"):
            train(run)
    assert len(checkpoints.list_checkpoints(Path(run.output_dir) / "checkpoints")) == 1
    assert train(run)["step"] == 12


def test_lines_that_find_no_room_are_written_later(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    lines = StepLines(path)
    lines.open(0)
    assert lines.append({"step": 1}) is None
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))
        assert isinstance(lines.append({"step": 2}), OSError)
        assert path.read_bytes() == b'{"step": 1}\n'
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert lines.append({"step": 3}) is None
    lines.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]


class Kick(Callback):
    """Spoils the weights once, as a bad batch at a high learning rate does."""

    name = "kick"

    def on_step_start(self, trainer: Trainer) -> None:
        if trainer.step == 60 and not trainer.rollbacks:
            with torch.no_grad():
                trainer.model.head.weight.mul_(-300)


def test_a_loss_spike_sends_the_run_back_and_it_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path, steps=80, checkpoint_every=10, log_every=5)
    run = changed(run, "training", guard=type(run.training.guard)(spike_window=32, spike_score=8.0))
    result = train_with(run, Kick(), monkeypatch)
    (entry,) = result["rollbacks"]
    assert (entry["step"], entry["to"]) == (63, 60)
    assert result["metrics"]["train/loss"] < 4.0
    assert len(events(capsys.readouterr().out, "rollback")) == 1


# Other ways to train.


@pytest.mark.parametrize(
    ("section", "change"),
    [
        ("objective", {"document_mask": True}),
        ("training", {"ema_decay": 0.9}),
        ("optimizer", {"name": "lion"}),
        ("optimizer", {"name": "sgd"}),
    ],
    ids=["document mask", "average", "lion", "sgd"],
)
def test_every_way_of_training_resumes_to_the_same_bytes(tmp_path: Path, section: str, change: dict[str, Any]) -> None:
    run = changed(make_run(tmp_path), section, **change)
    reference = changed(run, output_dir=str(tmp_path / "reference"))
    train(reference)
    for _ in range(2):
        with pytest.raises(Stopped):
            train(run, lambda trainer: trainer.stop())
    train(run)
    assert final_weights(run) == final_weights(reference)
    assert losses(run) == losses(reference)


def test_the_average_is_what_is_kept_and_evaluated(tmp_path: Path) -> None:
    run = make_run(tmp_path, steps=6, checkpoint_every=6)
    plain, averaged = (
        train(
            changed(run, "training", ema_decay=decay)
            if decay is None
            else changed(changed(run, output_dir=str(tmp_path / "averaged")), "training", ema_decay=decay)
        )
        for decay in (None, 0.5)
    )
    assert plain["metrics"]["train/loss"] == averaged["metrics"]["train/loss"]
    assert plain["metrics"]["validation/loss"] != averaged["metrics"]["validation/loss"]


def test_the_micro_batch_is_found_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path, steps=2, device_batch_size="auto")
    train(run)
    (told,) = events(capsys.readouterr().out, "start")
    assert told["device_batch_size"] == 4
