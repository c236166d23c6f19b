"""Where the records of a WARC file (ISO 28500) begin and end, found so that a broken record costs only itself.

The planner, which hops from header to header, and the reader, which sees the content go by, find the same records.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator

from pipeline.sources.compression import Raw
from pipeline.sources.config import Limits
from pipeline.sources.content import Run

VERSION = b"WARC/"
MAX_HEADER = 64 << 10
NO_HEADER = "the record's header has no end or no length"
SHORT = "the record is shorter than its header says"
HEADER_END = re.compile(rb"\r?\n\r?\n")
LENGTH = re.compile(rb"\nContent-Length:[ \t]*(\d{1,18})[ \t]*\r?\n", re.IGNORECASE)
_NEXT = b"\nWARC/"


def header_end(buffer: bytes | bytearray | memoryview) -> tuple[int, int] | None:
    """Return where a record's header ends and how long its block is, None where this is no sound header."""
    end = HEADER_END.search(buffer, 0, MAX_HEADER)
    length = LENGTH.search(buffer, 0, end.end()) if end else None
    return (end.end(), int(length.group(1))) if end and length else None


def _can_follow(following: bytes) -> bool:
    return following[:1] in (b"", b"\r", b"\n") or following == VERSION


Reason = tuple[str, str, float | None, float | None]


class Framer:
    """Cuts a run into records. Yields `(offset, record)`, or `(offset, reason)` for what is none."""

    def __init__(self, run: Run, limits: Limits, ends_with_file: bool) -> None:
        self.run = run
        self.limits = limits
        self.ends_with_file = ends_with_file
        self.pieces = iter(run)
        self.buffer = bytearray()
        self.base = 0
        self.frames: deque[int] = deque()  # offsets at which a frame begins
        self.ended = False

    def records(self) -> Iterator[tuple[int, bytes | Reason]]:
        """Yield the offset in the run and the bytes of each record, or why what begins there is none."""
        while self._skip_blank():
            offset = self.base
            if not self._need(len(VERSION)) or not self.buffer.startswith(VERSION):
                if not self.run.damage or self.buffer:
                    yield offset, ("broken_record", self._what_is_no_record(), None, None)
                self._resynchronise()
                continue
            header = self._header()
            if header is None:
                if self.ended and len(self.buffer) < MAX_HEADER and self._next_record() < 0:
                    yield from self._cut_short(offset, NO_HEADER)
                    return
                yield offset, ("broken_record", NO_HEADER, None, None)
                self._resynchronise()
                continue
            size = sum(header)
            if size > self.limits.max_record_bytes:
                limit = float(self.limits.max_record_bytes)
                yield offset, ("too_large", "the record is longer than max_record_bytes", float(size), limit)
                self._pass(size)
                continue
            whole = self._need(size)
            cut = self._frame_with_record(size)
            if cut is None and whole:
                cut = self._record_inside(header[0], size)
            if cut is None and whole:
                yield offset, bytes(self.buffer[:size])
                self._drop(size)
            elif cut is not None or self._next_record() >= 0:
                yield offset, ("broken_record", SHORT, None, None)
                self._drop(min(place for place in (cut, self._next_record()) if place is not None and place >= 0))
            else:
                yield from self._cut_short(offset, SHORT)
                return

    def _cut_short(self, offset: int, detail: str) -> Iterator[tuple[int, Reason]]:
        if self.ends_with_file and not self.run.damage:
            yield offset, ("truncated_stream", "the file ends inside a record", None, None)
        elif not self.run.damage:  # which would be reported itself
            yield offset, ("broken_record", detail, None, None)

    def _what_is_no_record(self) -> str:
        if self.buffer.startswith(b"filedesc:"):
            return "an ARC file, not WARC; convert it"
        return "no WARC record begins where one should"

    def _fill(self) -> bool:
        if self.ended:
            return False
        piece = next(self.pieces, None)
        if piece is None:
            self.ended = True
            return False
        if piece.place.inner == 0:
            self.frames.append(self.base + len(self.buffer))
        self.buffer += piece.data
        return True

    def _need(self, length: int) -> bool:
        while len(self.buffer) < length:
            if not self._fill():
                return False
            if self._frame_with_record(length) is not None:
                return len(self.buffer) >= length
        return True

    def _header(self) -> tuple[int, int] | None:
        while True:
            header = header_end(self.buffer)
            if header or len(self.buffer) >= MAX_HEADER or self._frame_with_record(MAX_HEADER) or not self._fill():
                return header

    def _skip_blank(self) -> bool:
        while True:
            blank = len(self.buffer) - len(self.buffer.lstrip(b"\r\n"))
            self._drop(blank)
            if self.buffer:
                return True
            if not self._fill():
                return False

    def _drop(self, length: int) -> None:
        del self.buffer[:length]
        self.base += length
        while self.frames and self.frames[0] < self.base:
            self.frames.popleft()

    def _frame_with_record(self, limit: int, least: int = 1) -> int | None:
        """Return where in the buffer, before `limit`, a frame begins with a record: no record reaches across that."""
        for frame in self.frames:
            at = frame - self.base
            if at >= limit:
                return None
            if at >= least:
                while len(self.buffer) < at + len(VERSION) and self._fill():
                    pass
                if self.buffer.startswith(VERSION, at):
                    return at
        return None

    def _record_inside(self, begin: int, size: int) -> int | None:
        """Return where another record begins inside this one, if what follows this one shows its length to be wrong."""
        self._need(size + len(_NEXT))
        if _can_follow(bytes(self.buffer[size : size + len(VERSION)])) or self.base + size in self.frames:
            return None
        return self.buffer.find(_NEXT, begin, size + len(_NEXT) - 1) + 1 or None

    def _next_record(self) -> int:
        return self.buffer.find(_NEXT) + 1 or -1

    def _resynchronise(self) -> None:
        """Go to the next line, or frame, that begins a record, past at least one byte."""
        least = 1
        while True:
            found = self._next_record()
            frame = self._frame_with_record(len(self.buffer), least)
            places = [place for place in (found, frame) if place is not None and place >= least]
            if places:
                self._drop(min(places))
                return
            passed = max(0, len(self.buffer) - len(_NEXT) + 1)
            self._drop(passed)
            least = 0 if passed else least
            if not self._fill():
                self._drop(len(self.buffer))
                return

    def _pass(self, size: int) -> None:
        least = 1
        while size > 0:
            cut = self._frame_with_record(size, least)
            step = min(size, len(self.buffer)) if cut is None else cut
            self._drop(step)
            least = 0
            size = 0 if cut is not None else size - step
            if size and not self._fill():
                return


def record_starts(raw: Raw, targets: list[int], limits: Limits) -> Iterator[int]:
    """Yield the first record at or behind each target, found as the reader finds it: from header to header."""
    position = index = 0
    while index < len(targets) and position < raw.size:
        head = bytes(raw.view(position, MAX_HEADER))
        blank = len(head) - len(head.lstrip(b"\r\n"))
        if blank:
            position += blank
            continue
        if position >= targets[index]:
            yield position
            while index < len(targets) and targets[index] <= position:
                index += 1
        header = header_end(head) if head.startswith(VERSION) else None
        end = position + sum(header) if header else 0
        if header and sum(header) > limits.max_record_bytes:
            position = end
        elif header and end <= raw.size:
            inside = -1
            if not _can_follow(bytes(raw.view(end, len(VERSION)))):
                inside = raw.find(_NEXT, position + header[0], end)
            position = inside + 1 if inside >= 0 else end
        else:
            found = raw.find(_NEXT, position)
            if found < 0:
                return
            position = found + 1
