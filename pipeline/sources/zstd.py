"""The frames of a zstd file: found by their block headers alone, decompressed one at a time.

Layout: RFC 8878, section 3. Frame and block headers say how long each block is, so a frame's end is found without
decompressing it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import pyarrow as pa

MAGIC = b"\x28\xb5\x2f\xfd"
SKIPPABLE = b"\x2a\x4d\x18"  # behind one byte from 0x50 to 0x5f
IN_MEMORY = 4 << 20
STEPS = (1 << 20, 4096, 1)

View = Callable[[int, int], memoryview]


def skip_skippable(view: View, position: int) -> int:
    """Return the position behind skippable frames (RFC 8878, 3.1.2)."""
    while True:
        header = bytes(view(position, 8))
        if len(header) < 8 or header[1:4] != SKIPPABLE or header[0] >> 4 != 5:
            return position
        position += 8 + int.from_bytes(header[4:], "little")


def frame_end(view: View, position: int) -> tuple[int, bool]:
    """Return where a frame ends, and whether all of it is there. Raises ValueError where no sound frame begins."""
    header = bytes(view(position, 18))
    if header[:4] != MAGIC[: len(header)]:
        raise ValueError("no zstd frame begins where one should")
    if len(header) < 6:
        return position + len(header), False
    descriptor = header[4]
    if descriptor & 0x08:
        raise ValueError("zstd: a reserved bit of the frame header is set")
    single_segment = descriptor >> 5 & 1
    position += 5 + (1 - single_segment) + (0, 1, 2, 4)[descriptor & 3] + (single_segment, 2, 4, 8)[descriptor >> 6]
    while True:
        block = bytes(view(position, 3))
        if len(block) < 3:
            return position + len(block), False
        value = int.from_bytes(block, "little")
        kind, size = value >> 1 & 3, value >> 3
        if kind == 3 or (kind != 1 and size > 128 << 10):
            raise ValueError("zstd: a block header is broken")
        position += 3 + (1 if kind == 1 else size)
        if value & 1:
            position += 4 * (descriptor >> 2 & 1)
            return position, len(view(position - 1, 1)) == 1


def frame_starts(view: View, size: int) -> Iterator[int]:
    """Yield where frames begin, from the front, as far as the chain is sound."""
    position = skip_skippable(view, 0)
    while position < size:
        yield position
        try:
            position, complete = frame_end(view, position)
        except ValueError:
            return
        if not complete:
            return
        position = skip_skippable(view, position)


def find_frame(view: View, find: Callable[[bytes, int, int], int], broken: int, stop: int) -> int | None:
    """Return where the first sound frame behind a broken one begins, before `stop`.

    Where the broken frame's block headers are sound, its end is known. Otherwise a frame counts when its own headers
    are, and another frame or the end of the file follows.
    """
    try:
        end, complete = frame_end(view, broken)
        if complete:
            return end if end < stop else None
    except ValueError:
        pass
    position = broken + 1
    while (at := find(MAGIC, position, stop)) >= 0:
        try:
            end, complete = frame_end(view, at)
            following = bytes(view(skip_skippable(view, end), 4))
            if complete and (not following or following == MAGIC):
                return at
        except ValueError:
            pass
        position = at + 1
    return None


def decode(view: View, start: int, end: int) -> Iterator[bytes]:
    """Yield the output of one frame, at most 1 MiB at a time. Raises OSError behind the last readable byte."""
    produced = 0
    error = OSError("zstd: the frame cannot be read")
    for step in STEPS:  # a failed read loses its output, so it is read again in smaller steps, up to the very byte
        stream = pa.CompressedInputStream(_open(view, start, end), "zstd")
        _skip(stream, produced)
        try:
            while data := stream.read(step):
                produced += len(data)
                yield data
            return
        except OSError as failure:
            error = failure
    raise error


def _skip(stream: pa.NativeFile, length: int) -> None:
    while length:
        length -= len(stream.read(min(length, STEPS[0])))


def _open(view: View, start: int, end: int) -> pa.NativeFile:
    if end - start <= IN_MEMORY:
        return pa.BufferReader(bytes(view(start, end - start)))
    return pa.PythonFile(_Slice(view, start, end), "r")


class _Slice(io.RawIOBase):
    def __init__(self, view: View, start: int, end: int) -> None:
        self._view, self._at, self._end = view, start, end

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = bytes(self._view(self._at, self._end - self._at if size < 0 else min(size, self._end - self._at)))
        self._at += len(data)
        return data
