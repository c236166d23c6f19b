"""One line on stdout at each journal interval."""

from __future__ import annotations

import time

from training.callbacks import Callback, Row
from training.trainer import Trainer

FIGURES = {
    "loss": "train/loss",
    "tokens_per_second": "train/tokens_per_second",
    "mfu": "train/mfu",
    "memory_bytes": "train/memory_bytes",
    "data_wait_share": "train/data_wait_share",
    "skipped_steps": "train/skipped_steps",
    "cost": "train/cost",
}
"""Facts of the event, and the metrics that they are; what is not known is left out."""


class Progress(Callback):
    """Reports step, loss, speed, memory and the time that is left at the pace so far."""

    name = "progress"

    def __init__(self) -> None:
        self._begin = 0.0
        self._first_step = 0

    def on_start(self, trainer: Trainer) -> None:
        """Start the clock."""
        self._begin, self._first_step = time.perf_counter(), trainer.step

    def on_step_end(self, trainer: Trainer, row: Row) -> None:
        """Report where the row has figures of the training."""
        if "train/tokens_per_second" not in row:
            return
        steps = trainer.run.training.steps
        pace = (time.perf_counter() - self._begin) / (trainer.step - self._first_step)
        trainer.report(
            "progress",
            step=trainer.step,
            steps=steps,
            tokens=trainer.tokens,
            **{fact: row[metric] for fact, metric in FIGURES.items() if metric in row},
            remaining_seconds=round(pace * (steps - trainer.step), 1),
        )
