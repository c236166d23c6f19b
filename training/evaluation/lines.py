"""Lines of local data files, plain or compressed, numbered for what is said of a broken one."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def read_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, numbered from 1; raises ValueError naming the file where it cannot be read."""
    path = Path(path)
    number = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
            for line in lines:
                number += 1
                if line.strip():
                    yield number, line
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read after line {number}: {error}") from None


def read_rows(path: str | Path, **fields: type | tuple[type, ...]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSON Lines file, numbered; each has the named fields, of their types.

    Raises ValueError naming the file, the line and the field.
    """
    for number, line in read_lines(path):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}: line {number}: {error}") from None
        if not isinstance(row, dict):
            raise ValueError(f"{path}: line {number}: expected a JSON object")
        for name, kind in fields.items():
            if not isinstance(row.get(name), kind) or isinstance(row[name], bool):
                raise ValueError(f"{path}: line {number}: {name}: missing or of another type, got {row.get(name)!r}")
        yield number, row


def set_name(path: str | Path) -> str:
    """What results call a file: its name up to the first dot."""
    return Path(path).name.partition(".")[0]
