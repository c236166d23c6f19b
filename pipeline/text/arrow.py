"""Views of Arrow string arrays as NumPy arrays, without a copy of the text."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


class Utf8View(NamedTuple):
    """The strings of one Arrow array: string i is `data[starts[i]:ends[i]]`. All three are read-only."""

    data: NDArray[np.uint8]  # (bytes of the whole buffer,)
    starts: NDArray[np.int64]  # (strings,)
    ends: NDArray[np.int64]  # (strings,); equal to starts where the string is null or empty


def _read_only(array: NDArray) -> NDArray:
    # Numba compiles read-only and writable arrays apart: one kind means one specialisation of each kernel.
    array = array.view()
    array.flags.writeable = False
    return array


def utf8_view(texts: pa.Array) -> Utf8View:
    """View of a string or large_string array, its offset and nulls respected; nulls become empty strings.

    Raises TypeError for another type.
    """
    if pa.types.is_large_string(texts.type):
        width: np.dtype = np.dtype(np.int64)
    elif pa.types.is_string(texts.type):
        width = np.dtype(np.int32)
    else:
        raise TypeError(f"expected an Arrow array of string or large_string, got {texts.type}")
    _, offsets_buffer, data_buffer = texts.buffers()
    if len(texts) == 0 or offsets_buffer is None:
        nothing = _read_only(np.zeros(len(texts), np.int64))
        return Utf8View(_read_only(np.zeros(0, np.uint8)), nothing, nothing)
    offsets = np.frombuffer(memoryview(offsets_buffer), width, len(texts) + 1, texts.offset * width.itemsize)
    offsets = offsets.astype(np.int64, copy=False)
    data = np.zeros(0, np.uint8) if data_buffer is None else np.frombuffer(memoryview(data_buffer), np.uint8)
    starts, ends = offsets[:-1], offsets[1:]
    if texts.null_count:
        ends = np.where(texts.is_valid().to_numpy(zero_copy_only=False), ends, starts)
    return Utf8View(_read_only(data), _read_only(starts), _read_only(ends))


def large_strings(offsets: NDArray[np.int64], data: NDArray[np.uint8]) -> pa.LargeStringArray:
    """A large_string array over `data`, without a copy; `offsets` are (strings + 1,). UTF-8 is not checked."""
    buffers = [None, pa.py_buffer(offsets.data), pa.py_buffer(data.data)]
    return pa.Array.from_buffers(pa.large_string(), len(offsets) - 1, buffers)  # type: ignore[return-value, arg-type]


def utf8_views(texts: pa.Array | pa.ChunkedArray) -> Iterator[Utf8View]:
    """One view for each chunk, in order."""
    for chunk in texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]:
        yield utf8_view(chunk)
