"""metrics.jsonl: one JSON line for each step at which something was measured."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any, BinaryIO

from training.callbacks import Callback, Row
from training.events import plain
from training.files import write_file
from training.trainer import Trainer

FILE_NAME = "metrics.jsonl"


class StepLines:
    """A file of JSON lines that each name a step. After `open` it holds none of a later step."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._waiting = b""

    def open(self, step: int) -> None:
        """Drop what was written after `step` by a process that died or a run that went back; open for appending."""
        self.close()
        self._waiting = b""
        truncate(self._path, step)
        self._file = self._path.open("ab", buffering=0)

    def append(self, *lines: dict[str, Any]) -> OSError | None:
        """Write lines and flush them to the disk: no checkpoint is ever ahead of the file.

        Where that fails (a full disk) the error is returned, and the lines are kept for the next time.
        """
        assert self._file is not None
        self._waiting += b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines)
        length = os.fstat(self._file.fileno()).st_size
        try:
            _write_all(self._file, self._waiting)
            os.fsync(self._file.fileno())
        except OSError as error:
            os.ftruncate(self._file.fileno(), length)
            return error
        self._waiting = b""
        return None

    def close(self) -> None:
        """Close the file, if it is open, after a last try to write what waits."""
        if self._file is not None:
            if self._waiting:
                self.append()
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
        if not row:
            return
        line = {
            "step": trainer.step,
            "tokens": trainer.tokens,
            "time": round(trainer.seconds, 3),
            "metrics": plain(row),
        }
        error = self._lines.append(line)
        if error is not None:
            trainer.report("warning", message=f"{FILE_NAME} cannot be written ({error}); its lines are kept")

    def close(self) -> None:
        """Close the file."""
        self._lines.close()


def truncate(path: Path, step: int) -> None:
    """Keep the whole lines up to `step`; a line cut short by a crash goes, and what follows it."""
    kept = []
    if path.exists():
        for line in path.read_bytes().splitlines(keepends=True):
            if not line.endswith(b"\n") or _step_of(line) > step:
                break
            kept.append(line)
    write_file(path, b"".join(kept))


def _step_of(line: bytes) -> float:
    """The step of a line; infinite for one that is damaged."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def _write_all(file: BinaryIO, content: bytes) -> None:
    """Write everything to an unbuffered file, which may take less at a time."""
    while content:
        content = content[file.write(content) :]
