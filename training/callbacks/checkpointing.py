"""A checkpoint every `checkpoint_every` steps and at the end; old ones go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from training import checkpoints
from training.callbacks import Callback, Row
from training.checkpoints import CheckpointError
from training.trainer import Trainer


class Checkpointing(Callback):
    """Writes checkpoints, keeps the newest `keep` and the one of lowest validation loss."""

    name = "checkpointing"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def on_step_end(self, trainer: Trainer, row: Row) -> None:
        """Write when due, in the main process; the others wait, so that none runs ahead of what could be resumed."""
        if not trainer.due(trainer.run.training.checkpoint_every):
            return
        if trainer.world.is_main:
            path = checkpoints.save(
                self._folder, trainer.model, trainer.state(), trainer.description(row), trainer.run.tokenizer_path
            )
            trainer.report("checkpoint", step=trainer.step, path=str(path), metrics=row)
            prune(self._folder, trainer.run.training.keep)
        trainer.world.wait()


def prune(folder: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints and the best one."""
    existing = checkpoints.list_checkpoints(folder)
    best = best_of(folder)
    for path in existing[:-keep]:
        if path != best:
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
