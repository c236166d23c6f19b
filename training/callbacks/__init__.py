"""What happens beside the training step: measuring, evaluating, keeping the journal, checkpointing, reporting.

A callback sees the trainer after each step and a row of metrics, which it may fill or read; so their order matters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.trainer import Trainer

Row = dict[str, float]
"""Metrics measured at one step, by name; empty at most steps."""


class Rollback(Exception):
    """A callback's wish to go back to a checkpoint of `before_step` or earlier, and to leave out the batches since.

    All processes raise it at the same step.
    """

    def __init__(self, before_step: int, reason: str) -> None:
        super().__init__(reason)
        self.before_step = before_step
        self.reason = reason


class Callback:
    """Does nothing; subclasses override what they need. `name` is the key of its state in a checkpoint."""

    name = ""

    def on_start(self, trainer: Trainer) -> None:
        """Before the first step, after a resume, and again after going back to a checkpoint."""

    def on_step_start(self, trainer: Trainer) -> None:
        """Before a step; `trainer.step` steps are done."""

    def on_gradients(self, trainer: Trainer) -> None:
        """After the last backward pass of a step, before clipping; `trainer.step` does not count it yet."""

    def on_step_end(self, trainer: Trainer, row: Row) -> None:
        """After a step; `trainer.step` counts it."""

    def on_rollback(self, trainer: Trainer) -> None:
        """Before going back to a checkpoint; `on_start` follows."""

    def on_stop(self, trainer: Trainer) -> None:
        """When the run is told to stop between two steps, to go on later: keep what is to be kept."""

    def on_end(self, trainer: Trainer) -> None:
        """After the last step."""

    def close(self) -> None:
        """However the run ended: let go of files and threads."""

    def state(self) -> dict[str, Any]:
        """JSON to keep in a checkpoint, so that a resumed run measures what an undisturbed one would."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up what `state` returned."""


def diverged(what: str, value: float, step: int) -> str:
    """The message for a loss that is no number any more."""
    return (
        f"the {what} became {value} by step {step}; the checkpoints before it are kept. "
        "Lower the learning rates or training.gradient_clip, and train into another output_dir"
    )
