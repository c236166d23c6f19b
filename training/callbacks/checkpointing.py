"""Checkpoints by steps and by time, written while training goes on; old ones go."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from training import checkpoints
from training.callbacks import Callback, Row
from training.checkpoints import CheckpointError, CheckpointWriter
from training.trainer import Trainer


class Checkpointing(Callback):
    """Writes a checkpoint every `checkpoint_every` steps, when the last is `checkpoint_minutes` old, and at the end.

    Kept are the newest `keep`, the one of lowest validation loss, and those of multiples of `keep_every` steps. A
    checkpoint that cannot be written (a full disk) is told of and tried again at the next interval, since the ones
    before it stay; at the end of the run, or of the process, it is an error.
    """

    name = "checkpointing"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: CheckpointWriter | None = None
        self._row: Row = {}
        self._step = -1
        self._begin = 0.0

    def on_start(self, trainer: Trainer) -> None:
        """Start the clock; what the run resumed from need not be written again."""
        self._writer = self._writer or CheckpointWriter(self._folder, trainer.world)
        self._step, self._begin = trainer.step, time.monotonic()

    def on_step_end(self, trainer: Trainer, row: Row) -> None:
        """Begin a checkpoint where one is due, and tell of the one before when it is done; wait for the last."""
        assert self._writer is not None
        config = trainer.run.training
        self._settle(trainer, wait=False)
        if trainer.due(config.checkpoint_every) or self._is_old(trainer):
            self._start(trainer, row)
        if trainer.step == config.steps:
            self._finish(trainer)

    def write_now(self, trainer: Trainer, row: Row | None = None) -> None:
        """Write a checkpoint of the step that is done, and wait until it is whole: before the process ends.

        All processes call it after the same step. Raises CheckpointError in all where it cannot be written.
        """
        self._settle(trainer, wait=True)
        # The main process alone may know that this step's checkpoint has failed.
        if trainer.world.agree(self._step != trainer.step):
            self._start(trainer, row or {})
        self._finish(trainer)

    def on_stop(self, trainer: Trainer) -> None:
        """Write the step that the run stops at, whichever it is."""
        self.write_now(trainer)

    def on_rollback(self, trainer: Trainer) -> None:
        """Wait for what is being written. Warns where it failed."""
        self._settle(trainer, wait=True)

    def close(self) -> None:
        """Wait for what is being written, and let the thread go."""
        if self._writer is not None:
            self._writer.close()

    def _is_old(self, trainer: Trainer) -> bool:
        """Whether the time is up by the main process's clock; asked when a line of the journal is due."""
        minutes = trainer.run.training.checkpoint_minutes
        if minutes is None or not trainer.due(trainer.run.training.log_every):
            return False
        return trainer.world.agree(trainer.world.is_main and time.monotonic() - self._begin >= 60 * minutes)

    def _start(self, trainer: Trainer, row: Row) -> None:
        assert self._writer is not None
        self._settle(trainer, wait=True)
        self._row, self._step, self._begin = dict(row), trainer.step, time.monotonic()
        average = trainer.ema
        self._writer.start(
            trainer.model,
            trainer.state(),
            trainer.description(self._row),
            trainer.run.tokenizer_path,
            average.state_tensors() if average is not None else None,
        )

    def _settle(self, trainer: Trainer, wait: bool) -> CheckpointError | None:
        """Tell of a checkpoint that is done and remove older ones; warn of one that failed, and return the error."""
        assert self._writer is not None
        try:
            with trainer.waiting():
                path = self._writer.wait() if wait else self._writer.poll()
        except CheckpointError as error:
            self._step = -1
            trainer.report("warning", message=f"{error}. Training goes on; the next checkpoint is the next try")
            return error
        if path is not None and trainer.world.is_main:
            trainer.report("checkpoint", step=checkpoints.step_of(path), path=str(path), metrics=self._row)
            prune(self._folder, trainer.run.training.keep, trainer.run.training.keep_every)
        return None

    def _finish(self, trainer: Trainer) -> None:
        error = self._settle(trainer, wait=True)
        if trainer.world.agree(error is not None):
            raise CheckpointError(
                f"{error or 'the main process could not write the checkpoint'}. "
                "Then start the same command again: it goes on from the checkpoint before"
            ) from error


def prune(folder: Path, keep: int, keep_every: int | None = None) -> None:
    """Remove all but the newest `keep` checkpoints, the best one and those of multiples of `keep_every` steps."""
    existing = checkpoints.list_checkpoints(folder)
    best = best_of(folder)
    for path in existing[:-keep]:
        for_good = keep_every is not None and checkpoints.step_of(path) % keep_every == 0
        if path != best and not for_good:
            checkpoints.remove(path)


def best_of(folder: Path) -> Path | None:
    """The checkpoint of lowest validation loss, the earlier one of two; None where none has been evaluated."""
    losses = [(_validation_loss(path), path) for path in checkpoints.list_checkpoints(folder)]
    evaluated = [(loss, path) for loss, path in losses if loss is not None]
    return min(evaluated, key=lambda entry: entry[0])[1] if evaluated else None


def _validation_loss(path: Path) -> float | None:
    try:
        metrics: dict[str, Any] = checkpoints.describe(path).get("metrics", {})
    except CheckpointError:
        return None
    return metrics.get("validation/loss")
