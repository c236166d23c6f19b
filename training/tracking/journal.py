"""Reading the trainer's journal, a file of JSON lines that grows, and is cut back when a killed run resumes."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TAIL_BYTES = 64
_CHUNK_BYTES = 1 << 20

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Position:
    """A place between two lines of a file, with a digest of what stands right before it."""

    offset: int = 0
    tail: str = ""


@dataclass(frozen=True)
class Point:
    """One value of one metric."""

    name: str
    value: float
    step: int
    timestamp_milliseconds: int


def read_lines(
    path: Path, position: Position, limit_bytes: int = _CHUNK_BYTES
) -> tuple[list[dict[str, Any]], Position]:
    """The whole lines after a position, about `limit_bytes` of them, and the position after them.

    Starts from the beginning where the file no longer holds what stood before the position: it was cut back or written
    anew. A last line without its newline is left for the next call; a line that is no JSON object is skipped with a
    warning. A file that does not exist has no new lines.
    """
    try:
        with path.open("rb") as file:
            if _tail(file, position.offset) != position.tail:
                position = Position()
            file.seek(position.offset)
            data = file.read(limit_bytes)
            if data and b"\n" not in data:
                data += file.readline()
            data = data[: data.rfind(b"\n") + 1]
            if not data:
                return [], position
            after = position.offset + len(data)
            return list(_parse(path, data, position.offset)), Position(after, _tail(file, after))
    except FileNotFoundError:
        return [], position


def _tail(file: Any, offset: int) -> str:
    """Digest of the bytes before an offset; empty at the beginning, and of no use past the end."""
    if offset == 0:
        return ""
    start = max(0, offset - _TAIL_BYTES)
    file.seek(start)
    before = file.read(offset - start)
    if len(before) != offset - start:
        return "past the end"
    return hashlib.blake2b(before, digest_size=8).hexdigest()


def _parse(path: Path, data: bytes, offset: int) -> Iterator[dict[str, Any]]:
    for line in data.splitlines(keepends=True):
        try:
            row = json.loads(line) if line.strip() else None
            if row is not None and not isinstance(row, dict):
                raise ValueError("not an object")
        except ValueError as error:
            log.warning("%s: the line at byte %d is skipped: %s", path, offset, error)
            row = None
        if row is not None:
            yield row
        offset += len(line)


def points(row: dict[str, Any], started_milliseconds: int) -> list[Point]:
    """The metrics of one journal line {"step", "tokens", "time" (seconds of training), "metrics": {name: number}}.

    Their times count from the start of the run (milliseconds since 1970). `tokens` becomes a metric of its own. What is
    no number is left out, and so is a line without a step and a time.
    """
    try:
        step, milliseconds = int(row["step"]), started_milliseconds + round(float(row["time"]) * 1000)
        metrics = dict(row.get("metrics") or {})
    except (KeyError, TypeError, ValueError, OverflowError):
        return []
    if "tokens" in row:
        metrics.setdefault("tokens", row["tokens"])
    return [Point(name, float(value), step, milliseconds) for name, value in metrics.items() if is_number(value)]


def is_number(value: object) -> bool:
    """Whether a JSON value can be a metric: any float, NaN too, and any integer that fits into one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        float(value)
    except OverflowError:
        return False
    return True
