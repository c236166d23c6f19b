"""Lists as they are distributed: a folder, or a .tar.gz or .zip of one, read in place; nothing is unpacked to disk."""

import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Final

DEEPEST: Final = 3

_MIB: Final = 1 << 20

Wanted = Callable[[str], bool]


def read_files(path: Path, wanted: Wanted, most_bytes: int) -> dict[str, bytes]:
    """The contents of the wanted files by their path inside the folder or archive, sorted.

    Paths have "/" between their parts, of which there are at most DEEPEST. In a tar archive, a link to a folder beside
    it (UT1 has them: `porn -> adult`) stands for the files of that folder.

    Raises ValueError where there is no such folder or archive, where it is damaged, where a path or link in the archive
    leads outside of it, or where the wanted files are larger than `most_bytes` together.
    """
    if path.is_dir():
        return dict(sorted(_from_folder(path, wanted, most_bytes)))
    if not path.is_file():
        raise ValueError(f"there is nothing at {path}; give the path of a folder with lists, or of a .tar.gz or .zip")
    try:
        if zipfile.is_zipfile(path):
            return dict(sorted(_from_zip(path, wanted, most_bytes)))
        if tarfile.is_tarfile(path):
            return dict(sorted(_from_tar(path, wanted, most_bytes)))
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        raise ValueError(f"{path} is a damaged or unreadable archive ({error}); download it again") from error
    raise ValueError(f"{path} is neither a folder nor a tar or zip archive that can be read")


class _Budget:
    def __init__(self, path: Path, most_bytes: int) -> None:
        self._path, self._most, self._left = path, most_bytes, most_bytes

    @property
    def room(self) -> int:
        return self._left + 1  # one byte more tells that a file is too large

    def spend(self, content: bytes) -> bytes:
        self._left -= len(content)
        if self._left < 0:
            raise ValueError(f"the lists in {self._path} are larger than {self._most / _MIB:g} MiB; choose fewer")
        return content


def _from_folder(folder: Path, wanted: Wanted, most_bytes: int) -> Iterator[tuple[str, bytes]]:
    budget = _Budget(folder, most_bytes)
    for depth in range(1, DEEPEST + 1):
        for path in sorted(folder.glob("/".join("*" * depth))):
            name = path.relative_to(folder).as_posix()
            if path.is_file() and wanted(name):
                with open(path, "rb") as stream:
                    yield name, budget.spend(stream.read(budget.room))


def _from_zip(path: Path, wanted: Wanted, most_bytes: int) -> Iterator[tuple[str, bytes]]:
    budget = _Budget(path, most_bytes)
    with zipfile.ZipFile(path) as archive:
        members = {_safe(path, info.filename): info for info in archive.infolist() if not info.is_dir()}
        for info in members.values():
            if (info.external_attr >> 16) & 0o170000 == 0o120000:
                raise ValueError(f"{path} holds a link, {info.filename!r}, which a zip archive of lists must not")
        for name, info in members.items():
            if _is_wanted(name, wanted):
                with archive.open(info) as stream:
                    yield name, budget.spend(stream.read(budget.room))


def _from_tar(path: Path, wanted: Wanted, most_bytes: int) -> Iterator[tuple[str, bytes]]:
    budget = _Budget(path, most_bytes)
    with tarfile.open(path) as archive:
        members: dict[str, tarfile.TarInfo] = {}
        aliases: dict[str, str] = {}
        for member in archive:
            name = _safe(path, member.name)
            if member.issym():
                aliases[name] = _neighbour(path, name, member.linkname)
            elif member.isreg():
                members[name] = member
            elif not member.isdir():
                raise ValueError(f"{path} holds {member.name!r}, which is neither a file nor a folder")
        content: dict[str, bytes] = {}
        for name, member in [*members.items(), *_aliased(members, aliases)]:
            if _is_wanted(name, wanted):
                if member.name not in content:
                    stream = archive.extractfile(member)
                    assert stream is not None
                    content[member.name] = budget.spend(stream.read(budget.room))
                yield name, content[member.name]
        while archive.fileobj is not None and archive.fileobj.read(_MIB):
            pass  # to the checksum at the end


def _aliased(members: dict[str, tarfile.TarInfo], aliases: dict[str, str]) -> Iterator[tuple[str, tarfile.TarInfo]]:
    for alias, target in aliases.items():
        for name, member in members.items():
            if name == target or name.startswith(f"{target}/"):
                yield alias + name.removeprefix(target), member


def _is_wanted(name: str, wanted: Wanted) -> bool:
    return name.count("/") < DEEPEST and wanted(name)


def _safe(archive: Path, name: str) -> str:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in (path.parts[:1] or ("",))[0] or "\0" in name:
        raise ValueError(f"{archive} holds the path {name!r}, which leads outside of the archive; it is not read")
    return path.as_posix()


def _neighbour(archive: Path, name: str, target: str) -> str:
    """The path that a link leads to: only the name of a file or folder beside it is taken."""
    if not target or target in (".", "..") or "/" in target.rstrip("/") or "\\" in target:
        raise ValueError(
            f"{archive} holds a link, {name!r} to {target!r}, that leads out of its folder; it is not read"
        )
    return (PurePosixPath(name).parent / target).as_posix()


def stamp(path: Path) -> tuple[tuple[str, int, int], ...]:
    """What changes when the files below a folder, or an archive, do: names, sizes and times of change."""
    files = sorted(file for depth in range(1, DEEPEST + 1) for file in path.glob("/".join("*" * depth)))
    statuses = [(file.relative_to(path).as_posix(), file.stat()) for file in [*files, path] if file.is_file()]
    return tuple((name, status.st_size, status.st_mtime_ns) for name, status in statuses)
