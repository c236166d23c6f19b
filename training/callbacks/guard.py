"""What is done when a run goes wrong on its own: steps that are no number, and loss spikes."""

from __future__ import annotations

import contextlib
import math
from collections import deque
from typing import Any

from training.callbacks import Callback, Rollback, Row, diverged
from training.callbacks.training_metrics import TrainingMetrics
from training.config.run import GuardConfig
from training.trainer import Trainer

DEVIATION_FLOOR = 0.01
"""Least standard deviation of the losses that a spike is measured by, in nats, and as a share of their mean above 1
nat: a loss that has gone flat must not turn noise into spikes."""


class Guard(Callback):
    """Tells of skipped steps, gives up after too many in a row, and sends the run back to before a loss spike.

    It stands behind `metrics`, whose losses it reads, and before all that writes: what it rejects leaves neither a line
    nor a checkpoint. The losses are means over all processes, so that all decide alike.

    A spike is a loss more than `spike_score` standard deviations above the mean of the `spike_window` accepted losses
    before it; it is not accepted itself. `spike_steps` spikes in a row raise Rollback, until `rollbacks` of them have
    been made; one that begins within `spike_steps` of the checkpoint that the run went back to sends it to an older
    one. After that they raise FloatingPointError. A run that nobody watches must not go on then: it would burn its
    budget, and in time replace the good checkpoints by spoiled ones. Those before the spike are kept, and the same
    command with a larger `rollbacks` goes on from there.
    """

    name = "guard"

    def __init__(self, config: GuardConfig, metrics: TrainingMetrics) -> None:
        self._config = config
        self._metrics = metrics
        self._window: deque[float] = deque(maxlen=config.spike_window)
        self._spikes = self._first_spike = self._skipped = 0

    def on_step_end(self, trainer: Trainer, row: Row) -> None:
        """Judge the losses that have just been read; raises Rollback, or FloatingPointError to end the run."""
        self._judge(trainer)
        if "train/tokens_per_second" in row:
            row["train/skipped_steps"] = float(len(trainer.skipped_steps))

    def on_end(self, trainer: Trainer) -> None:
        """A run that ends in skipped steps has not learned to its end."""
        if self._skipped > 1:
            raise FloatingPointError(diverged("loss", math.nan, trainer.step))

    def on_rollback(self, trainer: Trainer) -> None:
        """Begin a new window, which the checkpoint's replaces where there is one to go back to."""
        self.load_state({})

    def on_stop(self, trainer: Trainer) -> None:
        """Take up the last losses; the counts go into the checkpoint, and the next loss after it decides."""
        with contextlib.suppress(Rollback, FloatingPointError):
            self._judge(trainer)

    def state(self) -> dict[str, Any]:
        """The window and the counts of what came in a row. The trainer counts the rollbacks."""
        return {
            "window": list(self._window),
            "spikes": self._spikes,
            "first_spike": self._first_spike,
            "skipped": self._skipped,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on with them."""
        self._window = deque(state.get("window", ()), maxlen=self._config.spike_window)
        self._spikes, self._first_spike = state.get("spikes", 0), state.get("first_spike", 0)
        self._skipped = state.get("skipped", 0)

    def score(self, loss: float) -> float:
        """How many standard deviations a loss lies above the mean of the window; -inf before the window is full."""
        if len(self._window) < self._config.spike_window:
            return -math.inf
        mean, deviation = self._mean_and_deviation()
        return (loss - mean) / deviation

    def _judge(self, trainer: Trainer) -> None:
        first = trainer.step - len(self._metrics.losses) + 1
        for step, loss in enumerate(self._metrics.losses, first):
            if not math.isfinite(loss):
                self._skip(trainer, step, loss)
                continue
            self._skipped = 0
            if not self._accept(step, loss) and self._spikes >= self._config.spike_steps:
                raise self._verdict(trainer, step, loss)

    def _mean_and_deviation(self) -> tuple[float, float]:
        mean = math.fsum(self._window) / len(self._window)
        variance = math.fsum((loss - mean) ** 2 for loss in self._window) / len(self._window)
        return mean, max(math.sqrt(variance), DEVIATION_FLOOR * max(1.0, abs(mean)))

    def _accept(self, step: int, loss: float) -> bool:
        """Take a loss into the window, or count it as a spike."""
        if self._config.spike_score and self.score(loss) > self._config.spike_score:
            self._first_spike = self._first_spike if self._spikes else step
            self._spikes += 1
            return False
        self._spikes = 0
        self._window.append(loss)
        return True

    def _skip(self, trainer: Trainer, step: int, loss: float) -> None:
        self._skipped += 1
        if self._skipped > self._config.skipped_steps:
            raise FloatingPointError(diverged("loss", loss, step))
        trainer.report(
            "warning",
            message=f"the loss or the gradient of step {step} is no number: the step changed nothing",
            reason="skipped",
            step=step,
            loss=loss,
        )

    def _verdict(self, trainer: Trainer, step: int, loss: float) -> Exception:
        mean, deviation = self._mean_and_deviation()
        reason = (
            f"the loss of step {step}, {loss:.4g}, is spike {self._spikes} in a row: {(loss - mean) / deviation:.1f} "
            f"standard deviations above the mean {mean:.4g} of the {len(self._window)} losses before them"
        )
        made = [entry for entry in trainer.rollbacks if entry["to"] is not None]
        allowed = self._config.rollbacks
        if len(made) < allowed:
            before = self._first_spike - 1
            returned = made[-1]["to"] if made else None
            if returned is not None and before < returned + self._config.spike_steps:
                before = returned - 1  # it spiked at once again: that checkpoint was spoiled already
            return Rollback(before, reason)
        return FloatingPointError(
            f"{reason}; the run has gone back {len(made)} times, training.guard.rollbacks allows {allowed}. "
            "The checkpoints before the spike are kept: lower the learning rates and train into another output_dir, "
            "or raise training.guard.rollbacks to go on"
        )
