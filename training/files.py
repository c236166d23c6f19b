"""Small files that are whole or absent."""

from __future__ import annotations

import os
from pathlib import Path


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file under a hidden name, flush it to the disk, and give it its own."""
    scratch = path.with_name(f".{path.name}.writing")
    with scratch.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, path)
