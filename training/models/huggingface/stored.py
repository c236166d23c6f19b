"""The tensors of a folder of safetensors files, one file or several behind an index, read one at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from training.models.huggingface.settings import read_json

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_DTYPES = ("F32", "F16", "BF16", "F64")


class StoredTensors:
    """Names, shapes and values. Files are mapped into memory: nothing is read before it is asked for.

    Raises ValueError naming the file where one is missing, truncated or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._open = contextlib.ExitStack()
        self._file_of: dict[str, Any] = {}
        self._stored_as: dict[str, str] = {}
        try:
            for path, names in _files(folder).items():
                self._add(path, names)
        except BaseException:
            self._open.close()
            raise

    def __enter__(self) -> StoredTensors:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._file_of.clear()
        self._open.close()

    def __contains__(self, name: object) -> bool:
        return name in self._file_of

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __len__(self) -> int:
        return len(self._file_of)

    def rename(self, endings: Mapping[str, str]) -> None:
        """Show the names that end like a key as ending like its value."""
        for name in list(self._file_of):
            for old, new in endings.items():
                if name.endswith(old):
                    shown = name.removesuffix(old) + new
                    self._file_of[shown] = self._file_of.pop(name)
                    self._stored_as[shown] = name

    def stored_as(self, name: str) -> str:
        """The name of a tensor in its file."""
        return self._stored_as.get(name, name)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""
        return tuple(self._file_of[name].get_slice(self.stored_as(name)).get_shape())

    def read(self, name: str) -> Tensor:
        """A tensor as float32; raises ValueError where its numbers are of no plain floating-point type."""
        dtype = self._file_of[name].get_slice(self.stored_as(name)).get_dtype()
        if dtype not in _DTYPES:
            raise ValueError(f"{name}: numbers of type {dtype} are not supported; there are {', '.join(_DTYPES)}")
        tensor: Tensor = self._file_of[name].get_tensor(self.stored_as(name))
        return tensor.to(torch.float32)

    def _add(self, path: Path, names: set[str] | None) -> None:
        try:
            file = self._open.enter_context(safe_open(path, framework="pt"))
            found = set(file.keys())
        except OSError as error:
            raise ValueError(f"{path}: cannot be read: {error.strerror or error}") from None
        except SafetensorError as error:
            raise ValueError(f"{path}: truncated or damaged: {error}") from None
        if lacking := sorted((names or set()) - found):
            raise ValueError(f"{path}: lacks {lacking[0]}, which {INDEX} names")
        self._file_of |= dict.fromkeys(found if names is None else names, file)


def _files(folder: Path) -> dict[Path, set[str] | None]:
    """The files to read, each with the names to take from it (None: all)."""
    if (folder / WEIGHTS).is_file():
        return {folder / WEIGHTS: None}
    if (folder / INDEX).is_file():
        return _indexed(folder)
    if pickles := sorted(path.name for path in folder.glob("*.bin")):
        raise ValueError(
            f"{folder}: holds {pickles[0]}, but no {WEIGHTS}. That file is a pickle, which can run any code when it is "
            "read; save the model again as safetensors (the default of transformers' save_pretrained)"
        )
    raise ValueError(f"{folder}: holds neither {WEIGHTS} nor {INDEX}")


def _indexed(folder: Path) -> dict[Path, set[str] | None]:
    path = folder / INDEX
    names = read_json(path).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise ValueError(f"{path}: damaged: it has no weight_map")
    files: dict[Path, set[str] | None] = {}
    for name, file in names.items():
        # A name with a folder in it could point anywhere.
        if not isinstance(file, str) or Path(file).name != file:
            raise ValueError(f"{path}: weight_map.{name}: {file!r} is no file name")
        files.setdefault(folder / file, set()).add(name)  # type: ignore[union-attr]
    return files
