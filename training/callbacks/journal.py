"""metrics.jsonl: one JSON line for each step at which something was measured."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, BinaryIO

from training.callbacks import Callback, Row
from training.events import plain
from training.trainer import Trainer

FILE_NAME = "metrics.jsonl"


class StepLines:
    """A file of JSON lines that each name a step. After `open` it holds none of a later step."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None

    def open(self, step: int) -> None:
        """Drop what was written after `step` by a process that died or a run that went back; open for appending."""
        self.close()
        truncate(self._path, step)
        self._file = self._path.open("ab", buffering=0)

    def append(self, *lines: dict[str, Any]) -> None:
        """Write lines and flush them to the disk: no checkpoint is ever ahead of the file."""
        assert self._file is not None
        self._file.write(b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines))
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file, if it is open."""
        if self._file is not None:
            self._file.close()
            self._file = None


class Journal(Callback):
    """Appends rows; cut back to the step of the checkpoint on resume, so that each step stands there once."""

    name = "journal"

    def __init__(self, path: Path) -> None:
        self._lines = StepLines(path)

    def on_start(self, trainer: Trainer) -> None:
        """Cut the file back to the step where the run goes on."""
        self._lines.open(trainer.step)

    def on_step_end(self, trainer: Trainer, row: Row) -> None:
        """Write the row, if there is one."""
        if row:
            self._lines.append(
                {
                    "step": trainer.step,
                    "tokens": trainer.tokens,
                    "time": round(trainer.seconds, 3),
                    "metrics": plain(row),
                }
            )

    def close(self) -> None:
        """Close the file."""
        self._lines.close()


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
