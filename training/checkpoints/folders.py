"""Checkpoint folders: their names, and how they come and go without ever being half there."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

_NAME = re.compile(r"step-(\d{8,})")
_WRITING, _REMOVING = ".writing-", ".removing-"


class CheckpointError(ValueError):
    """A checkpoint cannot be read or written, or belongs to another run."""


class FormatError(CheckpointError):
    """A checkpoint is whole, but was written by another version."""


class UnreadableError(CheckpointError):
    """A file of a checkpoint is there, but reading it failed: the disk or the network, not the checkpoint."""


def unreadable(path: Path, error: OSError) -> CheckpointError:
    """What to raise for an error of the system: a file that is missing is damage, anything else is not."""
    kind = CheckpointError if isinstance(error, FileNotFoundError) else UnreadableError
    return kind(f"{path}: cannot be read: {error.strerror or error}")


def list_checkpoints(checkpoints_dir: str | Path) -> list[Path]:
    """Finished checkpoint folders, oldest step first."""
    root = Path(checkpoints_dir)
    if not root.is_dir():
        return []
    return sorted((path for path in root.iterdir() if _NAME.fullmatch(path.name)), key=step_of)


def step_of(checkpoint_dir: Path) -> int:
    """The step in a checkpoint folder's name."""
    match = _NAME.fullmatch(checkpoint_dir.name)
    assert match, checkpoint_dir
    return int(match[1])


def folder_of(checkpoints_dir: Path, step: int) -> Path:
    """Where the checkpoint of a step is or will be."""
    return checkpoints_dir / f"step-{step:08d}"


def hidden_of(checkpoint_dir: Path) -> Path:
    """Where a checkpoint is written before it gets its name."""
    return checkpoint_dir.with_name(f"{_WRITING}{checkpoint_dir.name}")


def begin(checkpoint_dir: Path) -> Path:
    """Make the hidden folder in which a checkpoint is written, empty."""
    hidden = hidden_of(checkpoint_dir)
    hidden.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(hidden, ignore_errors=True)
    hidden.mkdir()
    return hidden


def commit(checkpoint_dir: Path) -> None:
    """Give a written checkpoint its name, in place of an older one of the same step."""
    hidden = hidden_of(checkpoint_dir)
    sync(hidden)
    older = checkpoint_dir.with_name(f"{_REMOVING}{checkpoint_dir.name}")
    if checkpoint_dir.exists():
        shutil.rmtree(older, ignore_errors=True)
        checkpoint_dir.rename(older)
    hidden.rename(checkpoint_dir)
    sync(checkpoint_dir.parent)
    shutil.rmtree(older, ignore_errors=True)


def abandon(checkpoint_dir: Path) -> None:
    """Delete what was written of a checkpoint that failed."""
    shutil.rmtree(hidden_of(checkpoint_dir), ignore_errors=True)


def remove(checkpoint_dir: Path) -> None:
    """Delete a checkpoint; a crash in the middle leaves nothing that looks like one."""
    hidden = checkpoint_dir.with_name(f"{_REMOVING}{checkpoint_dir.name}")
    shutil.rmtree(hidden, ignore_errors=True)
    checkpoint_dir.rename(hidden)
    shutil.rmtree(hidden)


def clean(checkpoints_dir: str | Path) -> None:
    """Delete what a killed process left half-written or half-removed."""
    root = Path(checkpoints_dir)
    if root.is_dir():
        for path in root.iterdir():
            if path.name.startswith((_WRITING, _REMOVING)):
                shutil.rmtree(path)


def set_aside(damaged: Iterable[Path]) -> None:
    """Rename damaged checkpoints to `damaged-<name>-<time>`, so that no one takes them for whole."""
    for path in damaged:
        path.rename(path.with_name(f"damaged-{path.name}-{time.time_ns()}"))


def remove_after(checkpoints_dir: str | Path, step: int) -> None:
    """Delete the checkpoints of later steps: after going back, they belong to a run that is no more."""
    for path in reversed(list_checkpoints(checkpoints_dir)):
        if step_of(path) > step:
            remove(path)


def sync(path: Path) -> None:
    """Flush a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
