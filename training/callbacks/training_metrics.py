"""Training loss, learning rate, gradient norm, speed, memory and cost, every `log_every` steps."""

from __future__ import annotations

import math
import time
from typing import Any

from training.callbacks import Callback, Row
from training.devices import peak_memory_bytes
from training.trainer import Trainer

CLOCKED = frozenset(
    {"train/tokens_per_second", "train/mfu", "train/data_wait_share", "train/memory_bytes", "train/cost"}
)
"""Metrics that the machine decides; all others are the same in a run that was interrupted and in one that was not."""


class TrainingMetrics(Callback):
    """Averages the loss over the steps since the last row, and measures what the steps cost.

    It stands first among the callbacks: the clock of the speed stops where it begins. `losses` are what it has just
    read from the device for those behind it, one for each step since it last read, NaN for a step that was skipped; at
    most steps of a CUDA run there are none.

    `train/mfu`: the FLOPs of `Transformer.flops_per_token` (PaLM, appendix B; causal attention counted in full) over
    the peak of the devices. `train/memory_bytes`: the peak of the main process. `train/cost`: price times devices
    times the time of the run so far.
    """

    name = "training"

    def __init__(self) -> None:
        self.losses: list[float] = []
        self._begin = 0.0
        self.load_state({})

    def on_start(self, trainer: Trainer) -> None:
        """Set the clocks of speed and waiting to zero."""
        self._seconds, self._timed_steps = 0.0, 0
        self._data_seconds = trainer.data_seconds

    def on_step_start(self, trainer: Trainer) -> None:
        """Start the clock: what other callbacks did in between is not training."""
        self._begin = time.perf_counter()

    def on_step_end(self, trainer: Trainer, row: Row) -> None:
        """Fill the row when a line is due. The losses leave the device only then, or before a checkpoint."""
        config = trainer.run.training
        log = trainer.due(config.log_every)
        self.losses = []
        if log or trainer.due(config.checkpoint_every) or trainer.compute.device.type == "cpu":
            self._read_losses(trainer)
        self._seconds += time.perf_counter() - self._begin
        self._timed_steps += 1
        if log:
            row.update(self._learned(trainer) | self._spent(trainer))
            self.load_state({})
            self.on_start(trainer)

    def on_stop(self, trainer: Trainer) -> None:
        """Read what is still on the device, so that the average goes on over the interruption."""
        self._read_losses(trainer)

    def state(self) -> dict[str, Any]:
        """The average so far."""
        return {"loss_sum": self._loss_sum, "loss_steps": self._loss_steps}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on with it."""
        self._loss_sum, self._loss_steps = state.get("loss_sum", 0.0), state.get("loss_steps", 0)

    def _read_losses(self, trainer: Trainer) -> None:
        self.losses = trainer.take_losses()
        for loss in self.losses:
            # One by one: the rounding of the sum must not depend on how many were read at once.
            if math.isfinite(loss):
                self._loss_sum += loss
                self._loss_steps += 1

    def _learned(self, trainer: Trainer) -> Row:
        row = {
            "train/loss": self._loss_sum / max(1, self._loss_steps),
            "train/learning_rate": trainer.learning_rate,
            "train/gradient_norm": float(trainer.gradient_norm),
        }
        if not self._loss_steps:  # all steps were skipped
            del row["train/loss"]
        return {name: value for name, value in row.items() if math.isfinite(value)}

    def _spent(self, trainer: Trainer) -> Row:
        speed = self._timed_steps * trainer.tokens_per_step / self._seconds
        row = {
            "train/tokens_per_second": speed,
            "train/data_wait_share": min(1.0, (trainer.data_seconds - self._data_seconds) / self._seconds),
            "train/memory_bytes": float(peak_memory_bytes(trainer.compute.device)),
        }
        if trainer.compute.peak_flops:
            row["train/mfu"] = speed * trainer.flops_per_token / (trainer.compute.peak_flops * trainer.world.size)
        price = trainer.run.training.price_per_device_hour
        if price:
            row["train/cost"] = price * trainer.world.size * trainer.seconds / 3600
        return row
