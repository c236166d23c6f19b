"""Files of tasks: plain, compressed or in an archive, bounded in size, and JSON Lines. Nothing is unpacked to disk."""

from __future__ import annotations

import gzip
import json
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

LARGEST = 1 << 30
"""Most bytes of one file, unpacked."""
UNREADABLE = (OSError, EOFError, tarfile.TarError, zlib.error, lzma.LZMAError)
"""What damaged files raise."""


def content_of(file: IO[bytes], name: str) -> bytes:
    """The bytes of a file, which is closed, unpacked where its name ends in .gz; raises ValueError for too many."""
    with file, gzip.open(file) if name.endswith(".gz") else file as unpacked:
        content = unpacked.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError(f"{name}: larger than {LARGEST:,} bytes unpacked")
    return content


def members_of(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Names and contents of those files of a tar archive, compressed or not, whose name is wanted."""
    with tarfile.open(path) as archive:
        for member in archive:
            name = member.name.removeprefix("./")
            if member.isfile() and wanted(name):
                file = archive.extractfile(member)
                assert file is not None
                yield name, content_of(file, f"{path}#{name}")


def json_rows(name: str, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of JSON Lines by the number of their line; raises ValueError naming the line of what is none."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{name}: line {number}: {error}") from None
        if not isinstance(row, dict):
            raise ValueError(f"{name}: line {number}: expected a JSON object, got {repr(row)[:80]}")
        yield number, row
