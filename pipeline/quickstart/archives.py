"""Archives: the members of a downloaded package, read in place; nothing is unpacked to disk."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path


def read_members(archive: Path, wanted: Callable[[str], bool]) -> list[tuple[str, bytes]]:
    """Return (path, content) of the wanted regular files, in the order of their paths.

    Paths of an sdist lie below its one top folder, which is taken off; those of a wheel are as they are.
    """
    members = _wheel(archive, wanted) if archive.suffix == ".whl" else _sdist(archive, wanted)
    return sorted(members)


def _wheel(archive: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(archive) as wheel:
        for name in wheel.namelist():
            if not name.endswith("/") and wanted(name):
                yield name, wheel.read(name)


def _sdist(archive: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(archive) as sdist:
        for member in sdist:
            path = member.name.partition("/")[2]
            if member.isreg() and wanted(path):
                stream = sdist.extractfile(member)
                assert stream is not None
                yield path, stream.read()
