"""What the sender remembers: a small JSON file, replaced as a whole, beside a file of requests that only grows."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FORMAT = 1


@dataclass
class State:
    """What the tracker has. It may be lost: then it is found again in the tracker, by fingerprint."""

    format: int = FORMAT
    tracking_uri: str = ""
    run_id: str | None = None
    experiment_id: str | None = None
    started_milliseconds: int = 0
    """When the run began, since 1970; the journal counts from there."""
    dataset: list[str] | None = None
    """Name and digest of the dataset that checkpoints are linked to."""
    outbox_offset: int = 0
    outbox_tail: str = ""
    journal_offset: int = 0
    journal_tail: str = ""
    sent: dict[str, int] = field(default_factory=dict)
    """Last step sent, by metric."""
    in_flight: bool = False
    """A batch was on its way when this was written: the tracker may hold metrics that `sent` does not name."""
    done: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By key of a request: digest of what was asked, and the result."""
    failed: dict[str, str] = field(default_factory=dict)
    """Requests that the tracker refused for good, with the reason."""


def load_state(path: Path) -> State:
    """Read a state; a missing or damaged file, or one of another format, gives a new one."""
    try:
        document = json.loads(path.read_bytes())
        names = {entry.name for entry in dataclasses.fields(State)}
        if document["format"] == FORMAT:
            return State(**{name: value for name, value in document.items() if name in names})
    except (OSError, ValueError, TypeError, KeyError):
        pass
    return State()


def save_state(path: Path, state: State) -> None:
    """Write a state so that a reader sees the old one or the new one, after a power cut too."""
    part = path.with_name(f"{path.name}.part")
    with part.open("w", encoding="utf-8") as file:
        json.dump(dataclasses.asdict(state), file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def append_line(path: Path, document: dict[str, Any]) -> None:
    """Append one JSON line in one write, so that lines of several processes do not mix."""
    line = json.dumps(document, ensure_ascii=False).encode() + b"\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file, so that two processes do not send the same thing at once."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def digest_of(document: Any) -> str:
    """A short digest of a JSON value."""
    text = json.dumps(document, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
