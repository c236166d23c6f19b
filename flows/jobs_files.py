"""The input files of a job: where the paths of its configuration lead, and what they are known by."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline.store import file_sha256

_RECIPES = (".yaml", ".yml")


@dataclass(frozen=True)
class JobFiles:
    """The files of a configuration, with relative paths resolved."""

    found: dict[str, tuple[Path, ...]]
    """By what the configuration calls them: the file, or those that a pattern fits."""
    data: Path
    """Where relative paths start from."""

    def values(self, config: Any) -> dict[str, Any]:
        """The configuration as plain values in which every path is absolute."""
        replaced = {name: str(_place(name, self.data)) for name in (*self._folders(), *self.found)}
        return _with_strings(dataclasses.asdict(config), replaced, lambda root: str(self.data / root))

    def identity(self, config: Any) -> dict[str, Any]:
        """What decides the result: names and digests of the files, in place of where they lie, and all that is no
        matter of execution.
        """
        replaced = {**dict.fromkeys(self._folders(), ""), **{name: Path(name).name for name in self.found}}
        values = _with_strings(dataclasses.asdict(config), replaced, lambda root: "")
        for execution in config.EXECUTION:
            del values[execution]
        return {"config": values, "files": [[path.name, sha256] for path, sha256 in self.digests()]}

    def digests(self) -> list[tuple[Path, str]]:
        """Each file with its sha256."""
        return [(path, digest(path)) for paths in self.found.values() for path in paths]

    def _folders(self) -> set[str]:
        """The folders that files of the configuration lie in, as it may name them."""
        return {str(parent) for name in self.found for parent in Path(name).parents} - {".", "/"}


def find_files(config: Any, section: str, data: Path) -> JobFiles:
    """Find all input files of a job's configuration.

    Relative paths start from `data`, those of YAML files from the current folder; a `*` stands for any part of a name.
    Raises ValueError naming the field and the path of one that is missing.
    """
    found = {}
    for name in config.files():
        paths = tuple(_matching(_place(name, data)))
        if not paths or not all(path.is_file() for path in paths):
            start = "" if Path(name).is_absolute() else f"; relative paths start from {data}: name it with --data"
            raise ValueError(f"{_field(config, name, section)}: there is no file {name}{start}")
        found[name] = paths
    return JobFiles(found, data)


def digest(path: Path) -> str:
    """The sha256 of a file, read again only when it has changed."""
    state = path.stat()
    return _digest(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=4096)
def _digest(path: Path, _modified: int, _size: int) -> str:
    return file_sha256(path)


def _place(name: str, data: Path) -> Path:
    path = Path(name)
    return (Path.cwd() if path.suffix in _RECIPES else data) / path


def _matching(path: Path) -> list[Path]:
    """The files that a path with stars stands for; of one without, itself."""
    plain = next((number for number, part in enumerate(path.parts) if "*" in part), None)
    if plain is None:
        return [path]
    return sorted(Path(*path.parts[:plain]).glob(str(Path(*path.parts[plain:]))))


def _field(config: Any, name: str, section: str) -> str:
    """The place in a configuration that names a file, or a folder that it lies in; else the section."""
    places = {text: at for at, text in _strings(dataclasses.asdict(config), section)}
    known = (places[str(path)] for path in (Path(name), *Path(name).parents) if str(path) in places)
    return next(known, section)


def _with_strings(values: Any, replaced: Mapping[str, str], root: Callable[[str], str]) -> Any:
    """Plain values with those strings replaced that are paths; a field `root` is one of a folder, whatever it holds."""
    if isinstance(values, Mapping):
        return {
            name: root(value) if name == "root" and isinstance(value, str) else _with_strings(value, replaced, root)
            for name, value in values.items()
        }
    if isinstance(values, list | tuple):
        return [_with_strings(value, replaced, root) for value in values]
    return replaced.get(values, values) if isinstance(values, str) else values


def _strings(values: Any, at: str) -> Iterator[tuple[str, str]]:
    """Every string of a configuration with its dotted place."""
    if isinstance(values, str):
        yield at, values
    elif isinstance(values, Mapping):
        for name, value in values.items():
            yield from _strings(value, f"{at}.{name}")
    elif isinstance(values, list | tuple):
        for index, value in enumerate(values):
            yield from _strings(value, f"{at}.{index}")
