"""Which files a source means: paths, folders, globs and URLs become a sorted list of files with portable names."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Protocol, cast

import fsspec

from pipeline.sources.config import SourceConfig

COMPRESSED_SUFFIXES = (".gz", ".bz2", ".zst", ".xz")
MAGIC = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file of a source. `name` is relative to the source's root, so it is the same on every machine.

    `path` is where it lies here; `stamp` changes when the file is written again (mtime, or the store's version).
    """

    name: str
    path: str
    size: int
    stamp: str


def is_remote(path: str) -> bool:
    """Return whether a path is a URL that fsspec opens."""
    return "://" in path


class Planned(Protocol):
    """A file as it was when the run began: an InputFile, or a part of one."""

    @property
    def name(self) -> str:
        """Portable name."""

    @property
    def path(self) -> str:
        """Where it lies here."""

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def stamp(self) -> str:
        """What changes when it is written again."""


def open_input(file: Planned) -> BinaryIO:
    """Open a file for random access. Raises ValueError where it is no longer the one that the run began with."""
    if is_remote(file.path):
        stream = cast(BinaryIO, fsspec.open(file.path, "rb").open())
        size, stamp = stream.seek(0, os.SEEK_END), file.stamp
        stream.seek(0)
    else:
        stream = open(file.path, "rb")  # noqa: SIM115 (the caller closes it)
        status = os.fstat(stream.fileno())
        size, stamp = status.st_size, str(status.st_mtime_ns)
    if (size, stamp) != (file.size, file.stamp):
        stream.close()
        raise ValueError(f"{file.name} was changed after the run had begun; start the run again")
    return stream


def find_files(source: SourceConfig, suffixes: Iterable[str]) -> list[InputFile]:
    """Return the files that a source's paths mean, in the order of the paths, sorted by name inside each.

    In a folder those with one of `suffixes` count, compressed or not. Raises ValueError, naming source and path, where
    a path means no file.
    """
    wanted = tuple(suffix + packed for suffix in suffixes for packed in ("", *COMPRESSED_SUFFIXES))
    found: dict[str, InputFile] = {}
    for path in source.path:
        resolved = _resolve(path)
        try:
            files = _remote(resolved, wanted) if is_remote(resolved) else _local(resolved, wanted)
        except OSError as error:
            raise ValueError(f"source {source.name!r}: cannot look at {path}: {error}") from error
        if not files:
            raise ValueError(f"source {source.name!r}: {_nothing(path, resolved, wanted)}")
        for file in files:
            found.setdefault(file.path, file)
    return _with_unique_names(source, list(found.values()))


def _resolve(path: str) -> str:
    if path.startswith("quickstart://"):
        from pipeline.quickstart import resolve  # lays the corpus out on first use

        return str(resolve(path))
    return path.removeprefix("file://")


def _nothing(path: str, resolved: str, suffixes: Iterable[str]) -> str:
    if not is_remote(resolved) and Path(resolved).is_dir():
        return f"the folder {path} holds no file that ends in {', '.join(suffixes)}; give a glob to take others"
    return f"{path} matches no file" if MAGIC & set(resolved) else f"there is no file {path}"


def _local(path: str, suffixes: tuple[str, ...]) -> list[InputFile]:
    path = str(Path(path).expanduser().absolute())
    if Path(path).is_dir():
        root, names = path, [name for name in _glob("**/*", path) if name.lower().endswith(suffixes)]
    elif Path(path).is_file() or not MAGIC & set(path):
        root, names = str(Path(path).parent), [Path(path).name]
    else:
        root = _fixed_prefix(path)
        names = _glob(os.path.relpath(path, root), root)
    files = []
    for name in sorted(set(names)):
        file = Path(root, name)
        if file.is_file():
            status = file.stat()
            files.append(InputFile(_portable(name), str(file), status.st_size, str(status.st_mtime_ns)))
    return files


def _glob(pattern: str, root: str) -> list[str]:
    return glob.glob(pattern, root_dir=root, recursive=True)  # noqa: PTH207 (Path.glob takes hidden files too)


def _remote(url: str, suffixes: tuple[str, ...]) -> list[InputFile]:
    filesystem, path = fsspec.core.url_to_fs(url)
    if filesystem.isdir(path):
        root = path
        entries = {name: info for name, info in filesystem.find(path, detail=True).items() if name.endswith(suffixes)}
    elif MAGIC & set(path) and not filesystem.exists(path):
        root = _fixed_prefix(path)
        entries = filesystem.glob(path, detail=True)
    else:
        root = path.rpartition("/")[0]
        entries = {path: filesystem.info(path)} if filesystem.exists(path) else {}
    files = []
    for name, info in sorted(entries.items()):
        if info["type"] == "file":
            relative = name.removeprefix(root).lstrip("/")
            files.append(
                InputFile(relative, filesystem.unstrip_protocol(name), int(info["size"]), _stamp(filesystem, name))
            )
    return files


def _stamp(filesystem: Any, path: str) -> str:
    try:
        return str(filesystem.ukey(path))
    except (NotImplementedError, AttributeError):
        return ""


def _fixed_prefix(path: str) -> str:
    parts = path.split("/")
    magic = next(index for index, part in enumerate(parts) if MAGIC & set(part))
    return "/".join(parts[:magic]) or "/"


def _portable(name: str) -> str:
    return PurePosixPath(Path(name)).as_posix().encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _with_unique_names(source: SourceConfig, files: list[InputFile]) -> list[InputFile]:
    """Name files from their common folder where two paths of a source have files of the same name."""
    if len({file.name for file in files}) == len(files):
        return files
    try:
        root = os.path.commonpath([file.path.rpartition("/")[0] for file in files])
    except ValueError as error:
        raise ValueError(
            f"source {source.name!r}: files of different places have the same name; make two sources of them"
        ) from error
    return [InputFile(_portable(os.path.relpath(file.path, root)), file.path, file.size, file.stamp) for file in files]
