"""metrics.jsonl: one JSON line for each step at which something was measured."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import BinaryIO

from training.callbacks import Callback, Row
from training.events import plain
from training.trainer import Trainer

FILE_NAME = "metrics.jsonl"


class Journal(Callback):
    """Appends rows; cut back to the step of the checkpoint on resume, so that each step stands there once."""

    name = "journal"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None

    def on_start(self, trainer: Trainer) -> None:
        """Drop what a dead process wrote beyond the checkpoint, then open for appending."""
        truncate(self._path, trainer.step)
        self._file = self._path.open("ab", buffering=0)

    def on_step_end(self, trainer: Trainer, row: Row) -> None:
        """Write the row, if there is one, and flush it to the disk: no checkpoint is ever ahead of the journal."""
        if not row:
            return
        assert self._file is not None
        line = {
            "step": trainer.step,
            "tokens": trainer.tokens,
            "time": round(trainer.seconds, 3),
            "metrics": plain(row),
        }
        self._file.write(json.dumps(line).encode() + b"\n")
        os.fsync(self._file.fileno())

    def on_end(self, trainer: Trainer) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def truncate(path: Path, step: int) -> None:
    """Keep the whole lines up to `step`; a line cut short by a crash goes."""
    kept = []
    if path.exists():
        for line in path.read_bytes().splitlines(keepends=True):
            if not line.endswith(b"\n") or json.loads(line)["step"] > step:
                break
            kept.append(line)
    scratch = path.with_name(f".{path.name}.writing")
    scratch.write_bytes(b"".join(kept))
    os.replace(scratch, path)
