"""WARC files (ISO 28500): the HTML pages of a crawl, and the plain texts of WET files, by fastwarc and resiliparse.

A record's beginning is found here, so that a broken record costs itself: reading goes on at the next record header, or at
the next gzip member that begins with one.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator

from fastwarc.warc import WarcRecord
from resiliparse.parse.encoding import detect_mime

from pipeline.sources.compression import Compression, Place, Raw, detect, find_frames, read_pieces
from pipeline.sources.config import Limits, SourceConfig
from pipeline.sources.content import Part, Run, open_pieces, parts_between, runs, split_targets
from pipeline.sources.fields import too_large
from pipeline.sources.files import InputFile, open_input
from pipeline.sources.html import NotText, html_to_page, page_record
from pipeline.sources.records import Item, Record, Rejected, clean_text, iso_date

SUFFIXES = (".warc", ".wet", ".warc.wet")
MAX_HEADER = 64 << 10
VERSION = b"WARC/"
_NEXT = b"\nWARC/"
_HEADER_END = re.compile(rb"\r?\n\r?\n")
_LENGTH = re.compile(rb"\nContent-Length:[ \t]*(\d{1,18})[ \t]*\r?\n", re.IGNORECASE)
_TYPE = re.compile(rb"\nWARC-Type:[ \t]*(\w+)", re.IGNORECASE)
_HTML = ("text/html", "application/xhtml+xml")
_WANTED = (b"response", b"resource", b"conversion")


def plan(file: InputFile, source: SourceConfig, unit_bytes: int, limits: Limits) -> list[Part]:
    """Return the parts of a WARC file: ranges of whole records."""
    with open_input(file.path) as stream:
        raw = Raw(stream, file.size)
        compression = detect(bytes(raw.view(0, 16)))
        targets = split_targets(file.size, unit_bytes)
        if compression == "none":
            starts = [Place(0, start) for start in _starts(raw, targets)]
        else:
            frames = (Place(frame, 0) for frame in find_frames(raw, compression, targets))
            starts = [frame for frame in frames if _begins_record(raw, compression, frame, limits)]
    return parts_between(file, compression, [Place(0, 0), *(start for start in starts if start > Place(0, 0))])


def read(part: Part, source: SourceConfig, limits: Limits) -> Iterator[Item]:
    """Yield a record or a reason for each page. Requests, metadata, revisits and such hold no page and are passed over."""
    for run in runs(open_pieces(part, limits)):
        held: tuple[int, bytes] | None = None  # a record counts when its gzip member did not end with a wrong checksum
        for offset, found in _Framer(run, limits, ends_with_file=part.end is None).records():
            if held:
                yield from _items(part.locator(run.place(held[0])), held[1], source, limits)
            held = None
            if isinstance(found, bytes):
                held = offset, found
            else:
                yield Rejected(part.locator(run.place(offset)), *found)
        damage = run.damage
        if held and not (damage and damage.rule == "broken_stream" and run.place(held[0]).frame == damage.place.frame):
            yield from _items(part.locator(run.place(held[0])), held[1], source, limits)
        if damage:
            yield part.rejected(damage)


def header_end(buffer: bytes | bytearray | memoryview) -> tuple[int, int] | None:
    """Return where a record's header ends and how long its block is, None where this is no sound header."""
    end = _HEADER_END.search(buffer, 0, MAX_HEADER)
    length = _LENGTH.search(buffer, 0, end.end()) if end else None
    return (end.end(), int(length.group(1))) if end and length else None


Reason = tuple[str, str, float | None, float | None]


class _Framer:
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
                    yield from self._cut_short(offset, "a record's header")
                    return
                yield offset, ("broken_record", "the record's header has no end or no length", None, None)
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
                yield offset, bytes(self.buffer[:size])
                self._drop(size)
            elif cut is not None or self._next_record() >= 0:
                yield offset, ("broken_record", "the record is shorter than its header says", None, None)
                self._drop(cut if cut is not None else self._next_record())
            else:
                yield from self._cut_short(offset, "a record")
                return

    def _cut_short(self, offset: int, what: str) -> Iterator[tuple[int, Reason]]:
        if self.run.damage:
            return  # the damage is reported
        if self.ends_with_file:
            yield offset, ("truncated_stream", f"the file ends inside {what}", None, None)
        else:
            yield offset, ("broken_record", "the record is shorter than its header says", None, None)

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

    def _frame_with_record(self, limit: int) -> int | None:
        """Return where in the buffer, before `limit`, a frame begins with a record: no record reaches across that."""
        for frame in self.frames:
            at = frame - self.base
            if at >= limit:
                return None
            if at > 0:
                while len(self.buffer) < at + len(VERSION) and self._fill():
                    pass
                if self.buffer.startswith(VERSION, at):
                    return at
        return None

    def _next_record(self) -> int:
        return self.buffer.find(_NEXT) + 1 or -1

    def _resynchronise(self) -> None:
        """Go to the next line, or frame, that begins a record, past at least one byte."""
        while True:
            found = self._next_record()
            frame = self._frame_with_record(len(self.buffer))
            places = [place for place in (found, frame) if place is not None and place > 0]
            if places:
                self._drop(min(places))
                return
            self._drop(max(0, len(self.buffer) - len(_NEXT) + 1))
            if not self._fill():
                self._drop(len(self.buffer))
                return

    def _pass(self, size: int) -> None:
        while size > 0:
            cut = self._frame_with_record(size)
            step = min(size, len(self.buffer)) if cut is None else cut
            self._drop(step)
            size = 0 if cut is not None else size - step
            if size and not self._fill():
                return


def _starts(raw: Raw, targets: list[int]) -> Iterator[int]:
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
        if header and position + sum(header) <= raw.size:
            position += sum(header)
        else:
            found = raw.find(_NEXT, position)
            if found < 0:
                return
            position = found + 1


def _begins_record(raw: Raw, compression: Compression, frame: Place, limits: Limits) -> bool:
    head = b""
    for piece in read_pieces(raw, compression, frame, None, limits):
        head += getattr(piece, "data", b"")
        if len(head) >= len(VERSION) or not getattr(piece, "data", b""):
            break
    return head.startswith(VERSION)


def _items(locator: str, data: bytes, source: SourceConfig, limits: Limits) -> Iterator[Item]:
    kind = _TYPE.search(data, 0, MAX_HEADER)
    if kind and kind.group(1).lower() in _WANTED:
        try:
            yield _item(locator, data, kind.group(1).lower(), source, limits)
        except NotText as reason:
            yield reason.rejected(locator)
        except OSError as error:  # fastwarc: headers, chunks or encodings that are not what they say
            yield Rejected(locator, "broken_record", str(error))


def _item(locator: str, data: bytes, kind: bytes, source: SourceConfig, limits: Limits) -> Item:
    record = WarcRecord.from_bytes(_with_crlf(data))
    url = (record.headers.get("WARC-Target-URI") or "").strip("<> \t") or None
    date = iso_date(record.headers.get("WARC-Date"))
    if kind == b"response":
        payload, content_type, charset = _http_payload(data, limits)
    else:
        content_type = (record.headers.get("Content-Type") or "").partition(";")[0].strip().lower()
        payload, charset = record.reader.read(limits.max_document_bytes + 1), None
    content_type = content_type or detect_mime(payload[:4096])
    if kind == b"conversion" and content_type == "text/plain":
        return _plain(locator, payload, source, limits, url, date)
    if content_type not in _HTML:
        raise NotText("not_html", f"{content_type} at {url}")
    return page_record(locator, html_to_page(payload, charset, source.html, limits), source, limits, url, date)


def _http_payload(data: bytes, limits: Limits) -> tuple[bytes, str, str | None]:
    """Return the payload of a response, chunks and content encodings undone, its content type and charset."""
    most = limits.max_document_bytes + 1
    record = WarcRecord.from_bytes(_with_crlf(data))
    record.parse_http(auto_decode="none", strict_mode=False)
    headers = record.http_headers
    status = headers.status_code
    if status != 200:
        raise NotText("http_status", headers.status_line or "no HTTP response", float(status or 0), 200.0)
    content_type, charset = (record.http_content_type or "").strip().lower(), record.http_charset
    if content_type and content_type not in _HTML:
        raise NotText("not_html", f"{content_type} at {record.headers.get('WARC-Target-URI')}")
    if not (headers.get("Transfer-Encoding") or headers.get("Content-Encoding")):
        return record.reader.read(most), content_type, charset
    decoded = WarcRecord.from_bytes(_with_crlf(data))
    try:
        decoded.parse_http(auto_decode="all", strict_mode=False)
        return decoded.reader.read(most), content_type, charset
    except OSError:
        payload = record.reader.read(most)
        if payload.lstrip().startswith(b"<"):  # crawlers store decoded payloads under the server's headers
            return payload, content_type, charset
        raise


def _plain(
    locator: str, payload: bytes, source: SourceConfig, limits: Limits, url: str | None, date: str | None
) -> Item:
    if len(payload) > limits.max_document_bytes:
        limit = float(limits.max_document_bytes)
        return Rejected(locator, "too_large", "the text is longer than max_document_bytes", float(len(payload)), limit)
    try:
        text = clean_text(payload.decode())
    except UnicodeDecodeError as error:
        return Rejected(locator, "undecodable_bytes", f"no UTF-8 at byte {error.start}: {error.reason}")
    return too_large(locator, text, limits) or Record(
        locator, text, url=url, date=date, license=source.license, language=source.language
    )


def _with_crlf(data: bytes) -> bytes:
    """Return a record whose headers end their lines as the standard says, where they end them with \\n alone."""
    header = header_end(data)
    assert header
    end = header[0]
    head, block = data[:end], data[end:]
    http_end = _HEADER_END.search(block, 0, MAX_HEADER) if block.startswith(b"HTTP/") else None
    http = block[: http_end.end()] if http_end else b""
    if b"\r\n" in head[:200] and (not http or b"\r\n" in http):
        return data
    http_fixed = http.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    length = len(block) - len(http) + len(http_fixed)
    head = _LENGTH.sub(b"\nContent-Length: %d\r\n" % length, head.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
    return head + http_fixed + block[len(http) :]
