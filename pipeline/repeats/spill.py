"""Records on disk, divided among files by their leading bits, so that each file can be worked through in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numba
import numpy as np
from numpy.typing import NDArray

FAN_OUT_BITS = 6
MOST_LEVELS = 4  # of division: 16 million files; what is still too large then is one value many times
CHUNK_RECORDS = 1 << 16


@numba.njit(nogil=True, cache=True)
def _divide(records: NDArray[np.uint64], shift: int, bounds: NDArray[np.int64], divided: NDArray[np.uint64]) -> None:
    """Bring the rows into the order of the bits of their first field above `shift`; bounds: (files + 1,)."""
    files = len(bounds) - 1
    mask = np.uint64(files - 1)
    places = np.zeros(files, np.int64)
    for row in range(len(records)):
        places[(records[row, 0] >> np.uint64(shift)) & mask] += 1
    bounds[0] = 0
    for file in range(files):
        bounds[file + 1] = bounds[file] + places[file]
        places[file] = bounds[file]
    for row in range(len(records)):
        file = (records[row, 0] >> np.uint64(shift)) & mask
        for column in range(records.shape[1]):
            divided[places[file], column] = records[row, column]
        places[file] += 1


class Part:
    """The records whose first field lies from `low` to below `low + size`, in a file or, where they are few, here."""

    def __init__(self, source: Path | NDArray[np.uint64], columns: int, level: int, low: int) -> None:
        self.columns = columns
        self.level = level
        self.low = low
        self.size = 1 << (64 - FAN_OUT_BITS * level)
        self.bytes = source.stat().st_size if isinstance(source, Path) else source.nbytes
        self._source = source

    def chunks(self) -> Iterator[NDArray[np.uint64]]:
        """Yield the records: uint64 (records, columns)."""
        if not isinstance(self._source, Path):
            yield self._source
            return
        with open(self._source, "rb") as file:
            while len(values := np.fromfile(file, np.uint64, CHUNK_RECORDS * self.columns)):
                yield values.reshape(-1, self.columns)

    def delete(self) -> None:
        """Give the room back."""
        if isinstance(self._source, Path):
            self._source.unlink()


class Spill:
    """Records of `columns` uint64 each, divided by the leading bits of the first. Several threads may append.

    Records are held until there are `buffer_bytes` of them, and take three times as much while they are written. What
    never exceeds the buffer is divided in memory.
    """

    def __init__(self, folder: Path, columns: int, buffer_bytes: int, level: int = 0, low: int = 0) -> None:
        self.records = 0
        self._folder = folder
        self._columns = columns
        self._buffer_bytes = buffer_bytes
        self._level = level
        self._low = low
        self._shift = 64 - FAN_OUT_BITS * (level + 1)
        self._lock = threading.Lock()
        self._held: list[NDArray[np.uint64]] = []
        self._held_bytes = 0
        self._paths: list[Path] = []

    def append(self, records: NDArray[np.uint64]) -> None:
        """Write records, uint64 (records, columns), which must not change after that."""
        with self._lock:
            self.records += len(records)
            self._held.append(records)
            self._held_bytes += records.nbytes
            if self._held_bytes >= self._buffer_bytes:
                self._write()

    def parts(self, fits: Callable[[Part], bool]) -> Iterator[Part]:
        """End the writing and yield the parts, by ascending first field; those that do not fit are divided further.

        The reader deletes each part. Those without records are left out.
        """
        if not self.records:
            return
        if self._paths:
            self._write()
            sources: list[Path | NDArray[np.uint64]] = [*self._paths]
        else:
            whole = Part(self._take(), self._columns, self._level, self._low)
            if fits(whole):
                yield whole
                return
            sources = [part for chunk in whole.chunks() for part in self._divided(chunk)]
            del whole
        for number, source in enumerate(sources):
            if not (source.exists() if isinstance(source, Path) else len(source)):
                continue
            part = Part(source, self._columns, self._level + 1, self._low + (number << self._shift))
            if part.level == MOST_LEVELS or fits(part):
                yield part
                continue
            folder = self._folder / str(number)
            finer = Spill(folder, self._columns, self._buffer_bytes, part.level, part.low)
            for chunk in part.chunks():
                finer.append(chunk)
            part.delete()
            yield from finer.parts(fits)

    def _divided(self, records: NDArray[np.uint64]) -> list[NDArray[np.uint64]]:
        bounds = np.empty((1 << FAN_OUT_BITS) + 1, np.int64)
        divided = np.empty_like(records)
        _divide(records, self._shift, bounds, divided)
        return [divided[begin:end] for begin, end in pairwise(bounds.tolist())]

    def _take(self) -> NDArray[np.uint64]:
        records = np.concatenate([np.empty((0, self._columns), np.uint64), *self._held])
        self._held, self._held_bytes = [], 0
        return records

    def _write(self) -> None:
        if not self._paths:
            self._folder.mkdir(parents=True)
            self._paths = [self._folder / f"{number}.records" for number in range(1 << FAN_OUT_BITS)]
        for path, part in zip(self._paths, self._divided(self._take()), strict=True):
            if len(part):
                with open(path, "ab", buffering=0) as file:
                    part.tofile(file)
