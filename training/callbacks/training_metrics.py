"""Training loss, learning rate, gradient norm, tokens per second and MFU, every `log_every` steps."""

from __future__ import annotations

import math
import time
from typing import Any

from training.callbacks import Callback, Row, diverged
from training.trainer import Trainer


class TrainingMetrics(Callback):
    """Averages the loss over the steps since the last row and stops the run when it is no longer a number."""

    name = "training"

    def __init__(self) -> None:
        self._loss_sum = 0.0
        self._loss_steps = 0
        self._seconds = 0.0
        self._timed_steps = 0
        self._begin = 0.0

    def on_step_start(self, trainer: Trainer) -> None:
        """Start the clock: what other callbacks did in between is not training."""
        self._begin = time.perf_counter()

    def on_step_end(self, trainer: Trainer, row: Row) -> None:
        """Fill the row when a line is due. The loss leaves the device only then, or before a checkpoint."""
        config = trainer.run.training
        log = trainer.due(config.log_every)
        if log or trainer.due(config.checkpoint_every) or trainer.compute.device.type == "cpu":
            losses = trainer.take_losses()
            self._loss_sum += sum(losses)
            self._loss_steps += len(losses)
            if not all(map(math.isfinite, losses)):
                raise FloatingPointError(diverged("loss", losses[-1], trainer.step))
        self._seconds += time.perf_counter() - self._begin
        self._timed_steps += 1
        if log:
            row["train/loss"] = self._loss_sum / self._loss_steps
            row["train/learning_rate"] = trainer.learning_rate
            row["train/gradient_norm"] = float(trainer.gradient_norm)
            speed = self._timed_steps * trainer.tokens_per_step / self._seconds
            row["train/tokens_per_second"] = speed
            if trainer.compute.peak_flops:
                row["train/mfu"] = speed * trainer.flops_per_token / (trainer.compute.peak_flops * trainer.world.size)
            self._loss_sum = self._seconds = 0.0
            self._loss_steps = self._timed_steps = 0

    def state(self) -> dict[str, Any]:
        """The average so far."""
        return {"loss_sum": self._loss_sum, "loss_steps": self._loss_steps}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on with it."""
        self._loss_sum, self._loss_steps = state["loss_sum"], state["loss_steps"]
