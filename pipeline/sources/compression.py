"""Compressed files as chains of independent streams: where they begin, what they hold, what is broken in them.

A gzip file is a chain of members, a zstd file of frames, a bzip2 or xz file of streams; here each is a *frame*. A byte
of the content has a `Place`: the offset of its frame in the file and its offset inside that frame's output, so a place
does not depend on where a reader began. An uncompressed file is one frame at offset 0.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal, NamedTuple

from pipeline.sources import zstd
from pipeline.sources.config import MIB, Limits

Compression = Literal["none", "gzip", "bzip2", "zstd", "xz"]

STEP = 32 << 10
RATIO_FLOOR = 16 * MIB
XZ_MEMORY = 512 * MIB
LONGEST_STORED_BLOCK = 65_535
_GZIP, _XZ = b"\x1f\x8b\x08", b"\xfd7zXZ\x00"
_BZIP2, _BZIP2_EMPTY = b"1AY&SY", b"\x17rE8P\x90"
_UNSUPPORTED = {
    b"PK\x03\x04": "a zip archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"\x04\x22\x4d\x18": "compressed with lz4",
    b"\x1f\x9d": "compressed with compress(1)",
}


class Place(NamedTuple):
    """Where a byte of the content is: its frame's offset in the file, and its offset in the frame's output."""

    frame: int
    inner: int


@dataclass(frozen=True, slots=True)
class Piece:
    """Some content, in order; `data` is never empty."""

    place: Place
    data: bytes


@dataclass(frozen=True, slots=True)
class Damage:
    """Content ends here although the file goes on, or should; the next piece, if any, is a later frame."""

    place: Place
    rule: str
    detail: str
    value: float | None = None
    threshold: float | None = None


class _BadFrame(Exception):
    def __init__(self, rule: str, detail: str, value: float | None = None, threshold: float | None = None) -> None:
        super().__init__(detail)
        self.rule, self.detail, self.value, self.threshold = rule, detail, value, threshold


class Raw:
    """Random access to a file through one block of buffer."""

    BLOCK = MIB

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self.size = size
        self._stream = stream
        self._base = 0
        self._block = b""

    def view(self, position: int, length: int) -> memoryview:
        """Return `length` bytes from a position, fewer at the end of the file."""
        length = max(0, min(length, self.size - position))
        start = position - self._base
        if start < 0 or start + length > len(self._block):
            self._stream.seek(position)
            self._block = self._stream.read(max(length, self.BLOCK))
            self._base, start = position, 0
        return memoryview(self._block)[start : start + length]

    def find(self, pattern: bytes, position: int, stop: int | None = None) -> int:
        """Return where a pattern first begins at or after a position and before `stop`, or -1."""
        stop = self.size if stop is None else min(stop, self.size)
        while position < stop:
            block = bytes(self.view(position, self.BLOCK))
            at = block.find(pattern)
            if at >= 0:
                return position + at if position + at < stop else -1
            if position + len(block) >= self.size:
                return -1
            position += max(1, len(block) - len(pattern) + 1)
        return -1


def detect(head: bytes) -> Compression:
    """Return the compression of a file from its first bytes. Raises ValueError for one that is not supported."""
    if head.startswith(_GZIP):
        return "gzip"
    if head.startswith(b"BZh") and head[4:10] in (_BZIP2, _BZIP2_EMPTY):
        return "bzip2"
    if head.startswith(_XZ):
        return "xz"
    if head.startswith(zstd.MAGIC) or (head[1:4] == zstd.SKIPPABLE and head[0] >> 4 == 5):
        return "zstd"
    for magic, what in _UNSUPPORTED.items():
        if head.startswith(magic):
            raise ValueError(f"it is {what}; unpack it, or pack it with gzip, bzip2, zstd or xz")
    return "none"


def read_pieces(
    raw: Raw, compression: Compression, start: Place, end: Place | None, limits: Limits
) -> Iterator[Piece | Damage]:
    """Yield the content between two places (to the end of the file without `end`), and what is damaged in it.

    After damage it goes on at the next frame that can be found. Memory is bounded, whatever the content.
    """
    if compression == "none":
        yield from _plain(raw, start.inner, raw.size if end is None else end.inner)
        return
    position: int | None = start.frame
    while position is not None:
        position = _skip_padding(raw, compression, position)
        if position >= raw.size or (end is not None and (position, 0) >= end):
            return
        take = end.inner if end is not None and position == end.frame else None
        inner, after = 0, position
        try:
            for data, after in _frame(raw, compression, position):
                skipped = max(0, start.inner - inner) if position == start.frame else 0
                kept = data[skipped : None if take is None else max(0, take - inner)]
                if kept:
                    yield Piece(Place(position, inner + skipped), kept)
                inner += len(data)
                if take is not None and inner >= take:
                    return
                _check_limits(inner, after - position, limits)
        except _BadFrame as bad:
            yield Damage(Place(position, inner), bad.rule, bad.detail, bad.value, bad.threshold)
            position = _next_frame(raw, compression, position, end)
        else:
            position = after


def find_frames(raw: Raw, compression: Compression, targets: list[int]) -> list[int]:
    """Return, for ascending offsets, the first frames that surely begin at or after each; none is named twice.

    *Surely*: every reader that comes from the front arrives there too, so work can be split there.
    """
    if compression == "zstd":
        return _pick(zstd.frame_starts(raw.view, raw.size), targets)
    found: list[int] = []
    for target in targets if compression in ("gzip", "bzip2") else ():
        if found and target <= found[-1]:
            continue
        if compression == "gzip":
            start = _find_gzip(raw, target, raw.size, _is_surely_gzip)
        else:
            start = _find_bzip2(raw, target, raw.size)
        if start is None:
            break
        found.append(start)
    return found


def _pick(starts: Iterator[int], targets: list[int]) -> list[int]:
    found: list[int] = []
    index = 0
    for start in starts:
        if index < len(targets) and start >= targets[index]:
            found.append(start)
            while index < len(targets) and targets[index] <= start:
                index += 1
    return found


def _plain(raw: Raw, position: int, end: int) -> Iterator[Piece]:
    while position < end:
        data = bytes(raw.view(position, min(MIB, end - position)))
        if not data:
            raise OSError(f"the file became shorter than {end} bytes while it was read")
        yield Piece(Place(0, position), data)
        position += len(data)


def _check_limits(produced: int, consumed: int, limits: Limits) -> None:
    if produced > limits.max_decompressed_bytes:
        raise _BadFrame(
            "decompression_limit",
            "decompresses to more than max_decompressed_bytes",
            float(produced),
            float(limits.max_decompressed_bytes),
        )
    if produced > RATIO_FLOOR and produced > limits.max_decompression_ratio * consumed:
        raise _BadFrame(
            "decompression_limit",
            "decompresses by more than max_decompression_ratio",
            produced / max(1, consumed),
            limits.max_decompression_ratio,
        )


def _frame(raw: Raw, compression: Compression, position: int) -> Iterator[tuple[bytes, int]]:
    """Yield the output of one frame, at most 1 MiB at a time, with the offset in the file behind what was used."""
    if compression == "gzip":
        return _gzip_member(raw, position)
    if compression == "zstd":
        return _zstd_frame(raw, position)
    if compression == "bzip2":
        return _stream(raw, position, bz2.BZ2Decompressor)
    return _stream(raw, position, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY))


def _gzip_member(raw: Raw, position: int) -> Iterator[tuple[bytes, int]]:
    if raw.view(position, 3) != _GZIP[: raw.size - position]:
        raise _BadFrame("broken_stream", "no gzip member begins where one should")
    inflate = zlib.decompressobj(zlib.MAX_WBITS | 16)
    while not inflate.eof:
        view = raw.view(position, STEP)
        before = inflate.copy()
        try:
            data = inflate.decompress(view, MIB) if view else inflate.flush()
        except zlib.error as error:
            yield _salvage(before, view), position
            raise _BadFrame("broken_stream", f"gzip: {error}") from error
        position += len(view) - _left(inflate)
        yield data, position
        if not view and not inflate.eof:
            raise _BadFrame("truncated_stream", "the file ends inside a gzip member")


def _left(inflate: Any) -> int:
    """Return how much of its last input a decompressor did not use. At the end it names the same bytes twice."""
    return len(inflate.unused_data if inflate.eof else inflate.unconsumed_tail)


def _salvage(inflate: Any, data: bytes | memoryview) -> bytes:
    """Return what a member still gives before its broken place."""
    saved = []
    try:
        while data:
            saved.append(inflate.decompress(data, 256))
            data = inflate.unconsumed_tail
    except zlib.error:
        pass
    return b"".join(saved)


def _stream(raw: Raw, position: int, make: Callable[[], Any]) -> Iterator[tuple[bytes, int]]:
    decompressor = make()
    while not decompressor.eof:
        view = raw.view(position, STEP) if decompressor.needs_input else b""
        if decompressor.needs_input and not view:
            raise _BadFrame("truncated_stream", "the file ends inside a compressed stream")
        try:
            data = decompressor.decompress(view, MIB)
        except (OSError, EOFError, lzma.LZMAError) as error:
            raise _BadFrame("broken_stream", str(error)) from error
        position += len(view)
        if decompressor.eof:
            position -= len(decompressor.unused_data)
        yield data, position


def _zstd_frame(raw: Raw, position: int) -> Iterator[tuple[bytes, int]]:
    try:
        end, complete = zstd.frame_end(raw.view, position)
    except ValueError as error:
        raise _BadFrame("broken_stream", str(error)) from error
    try:
        for data in zstd.decode(raw.view, position, min(end, raw.size)):
            yield data, end
        yield b"", end  # a frame may be empty
    except OSError as error:
        if complete:
            raise _BadFrame("broken_stream", str(error)) from error
    if not complete:
        raise _BadFrame("truncated_stream", "the file ends inside a zstd frame")


def _skip_padding(raw: Raw, compression: Compression, position: int) -> int:
    if compression == "zstd":
        return zstd.skip_skippable(raw.view, position)
    while position < raw.size:
        block = bytes(raw.view(position, STEP))
        if block.startswith(b"\0"):
            position += len(block) - len(block.lstrip(b"\0"))
        else:
            break
    return position


def _next_frame(raw: Raw, compression: Compression, broken: int, end: Place | None) -> int | None:
    """Return where to go on behind a broken frame, no further than the end of this part."""
    stop = raw.size if end is None else end.frame
    if compression == "gzip":
        found = _find_gzip(raw, broken + 1, stop, _is_probably_gzip)
    elif compression == "bzip2":
        found = _find_bzip2(raw, broken + 1, stop)
    elif compression == "zstd":
        found = zstd.find_frame(raw.view, raw.find, broken, stop)
    else:
        return None
    return found if found is not None or end is None else end.frame


def _find_bzip2(raw: Raw, position: int, stop: int) -> int | None:
    """Find a stream header: ten bytes that compressed data, which bzip2 never stores raw, holds with odds of 2^-70."""
    while (at := raw.find(_BZIP2, position + 4, stop + 4) - 4) >= 0:
        header = bytes(raw.view(at, 4))
        if header[:3] == b"BZh" and header[3:].isdigit():
            return at
        position = at + 1
    return None


def _find_gzip(raw: Raw, position: int, stop: int, accept: Callable[[Raw, int], bool]) -> int | None:
    while (at := raw.find(_GZIP, position, stop)) >= 0:
        header = raw.view(at, 4)
        if len(header) == 4 and not header[3] & 0xE0 and accept(raw, at):  # RFC 1952: the upper flags are reserved
            return at
        position = at + 1
    return None


def _is_probably_gzip(raw: Raw, position: int) -> bool:
    """Whether a member can be read from here whole and a member or the end follows, or 1 MiB of it can be read."""
    end = _inflate(raw, position)
    return end is None or (end > 0 and _follows(raw, end))


def _is_surely_gzip(raw: Raw, position: int) -> bool:
    """Whether a member begins here, and not a copy of one inside another member's data.

    DEFLATE keeps incompressible data, such as a gzip file, as stored blocks of at most 65,535 bytes with a header
    between them (RFC 1951, 3.2.4). So a chain of members with right checksums that is longer, or that ends with the
    file, lies in no stored block.
    """
    at = position
    while at < raw.size:
        end = _inflate(raw, at)
        if end is None:
            return True
        if not end or not _follows(raw, end):
            return False
        at = _skip_padding(raw, "gzip", end)
        if end - position > LONGEST_STORED_BLOCK + 8:
            return True
    return True


def _follows(raw: Raw, position: int) -> bool:
    position = _skip_padding(raw, "gzip", position)
    return position >= raw.size or raw.view(position, 3) == _GZIP


def _inflate(raw: Raw, position: int) -> int | None:
    """Return the end of the member that begins at a position, 0 where there is none, None where 1 MiB of it is fine."""
    first, produced = position, 0
    inflate = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        while not inflate.eof:
            view = raw.view(position, STEP)
            if not view:
                return 0
            produced += len(inflate.decompress(view, MIB))
            position += len(view) - _left(inflate)
            if position - first > MIB or (produced > 80 * MIB and position - first > LONGEST_STORED_BLOCK):
                return None
    except zlib.error:
        return 0
    return position
