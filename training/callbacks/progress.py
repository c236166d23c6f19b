"""One line on stdout at each journal interval."""

from __future__ import annotations

import time

from training.callbacks import Callback, Row
from training.trainer import Trainer


class Progress(Callback):
    """Reports step, loss, speed and the time that is left at the pace so far."""

    name = "progress"

    def __init__(self) -> None:
        self._begin = 0.0
        self._first_step = 0

    def on_start(self, trainer: Trainer) -> None:
        """Start the clock."""
        self._begin, self._first_step = time.perf_counter(), trainer.step

    def on_step_end(self, trainer: Trainer, row: Row) -> None:
        """Report where the row has a training loss."""
        if "train/loss" not in row:
            return
        steps = trainer.run.training.steps
        pace = (time.perf_counter() - self._begin) / (trainer.step - self._first_step)
        trainer.report(
            "progress",
            step=trainer.step,
            steps=steps,
            tokens=trainer.tokens,
            loss=row["train/loss"],
            tokens_per_second=row["train/tokens_per_second"],
            remaining_seconds=round(pace * (steps - trainer.step), 1),
        )
