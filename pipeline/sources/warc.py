"""WARC files (ISO 28500): the HTML pages of a crawl, and the plain texts of WET files, by fastwarc and resiliparse."""

from __future__ import annotations

import re
from collections.abc import Iterator

from fastwarc.warc import WarcRecord
from resiliparse.parse.encoding import detect_mime
from resiliparse.parse.html import HTMLParserException

from pipeline.sources.compression import Compression, Place, Raw, detect, find_frames
from pipeline.sources.config import Limits, SourceConfig
from pipeline.sources.content import BEGINNING, Part, head, open_pieces, parts_between, runs, split_targets
from pipeline.sources.fields import too_large
from pipeline.sources.files import InputFile, open_input
from pipeline.sources.html import NotText, html_to_page, page_record
from pipeline.sources.records import Item, Record, Rejected, clean_text, iso_date
from pipeline.sources.warc_records import HEADER_END, LENGTH, MAX_HEADER, VERSION, Framer, header_end, record_starts

SUFFIXES = (".warc", ".wet", ".warc.wet")
_TYPE = re.compile(rb"\nWARC-Type:[ \t]*(\w+)", re.IGNORECASE)
_HTML = ("text/html", "application/xhtml+xml")
_WANTED = (b"response", b"resource", b"conversion")


def plan(file: InputFile, source: SourceConfig, unit_bytes: int, limits: Limits) -> list[Part]:
    """Return the parts of a WARC file: ranges of whole records."""
    with open_input(file) as stream:
        raw = Raw(stream, file.size)
        compression = detect(bytes(raw.view(0, 16)))
        targets = split_targets(file.size, unit_bytes)
        if compression == "none":
            starts = [Place(0, start) for start in record_starts(raw, targets, limits)]
        else:
            frames = (Place(frame, 0) for frame in find_frames(raw, compression, targets))
            starts = [frame for frame in frames if _begins_record(raw, compression, frame, limits)]
    return parts_between(file, compression, [BEGINNING, *(start for start in starts if start > BEGINNING)])


def read(part: Part, source: SourceConfig, limits: Limits) -> Iterator[Item]:
    """Yield a record or a reason for each page. Requests, metadata, revisits hold no page and are passed over."""
    for run in runs(open_pieces(part, limits)):
        held: tuple[int, bytes] | None = None  # it counts if its gzip member does not end with a wrong checksum
        for offset, found in Framer(run, limits, ends_with_file=part.end is None).records():
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


def _begins_record(raw: Raw, compression: Compression, frame: Place, limits: Limits) -> bool:
    return head(raw, compression, limits, len(VERSION), frame).startswith(VERSION)


def _items(locator: str, data: bytes, source: SourceConfig, limits: Limits) -> Iterator[Item]:
    kind = _TYPE.search(data, 0, MAX_HEADER)
    if not kind:
        yield Rejected(locator, "broken_record", "the record has no WARC-Type")
    elif kind.group(1).lower() in _WANTED:
        try:
            item = _item(locator, data, kind.group(1).lower(), source, limits)
            if item:
                yield item
        except NotText as reason:
            yield reason.rejected(locator)
        except (OSError, ValueError, HTMLParserException) as error:  # headers, chunks, encodings not as they say
            yield Rejected(locator, "broken_record", f"{type(error).__name__}: {error}")


def _item(locator: str, data: bytes, kind: bytes, source: SourceConfig, limits: Limits) -> Item | None:
    record = WarcRecord.from_bytes(_with_crlf(data))
    url = (record.headers.get("WARC-Target-URI") or "").strip("<> \t") or None
    date = iso_date(record.headers.get("WARC-Date"))
    content_type = (record.headers.get("Content-Type") or "").partition(";")[0].strip().lower()
    charset = None
    if kind == b"response":
        if content_type == "text/dns":
            return None
        payload, content_type, charset = _http_payload(data, url, limits)
    else:
        payload = record.reader.read(limits.max_document_bytes + 1)
    content_type = content_type or detect_mime(payload[:4096])
    if kind == b"conversion" and content_type == "text/plain":
        return _plain(locator, payload, source, limits, url, date)
    if content_type not in _HTML:
        raise NotText("not_html", f"{content_type} at {url}")
    return page_record(locator, html_to_page(payload, charset, source.html, limits), source, limits, url, date)


def _http_payload(data: bytes, url: str | None, limits: Limits) -> tuple[bytes, str, str | None]:
    """Return the payload of a response, chunks and content encodings undone, its content type and charset."""
    most = limits.max_document_bytes + 1
    record = WarcRecord.from_bytes(_with_crlf(data))
    record.parse_http(auto_decode="none", strict_mode=False)
    headers = record.http_headers
    if headers is None:
        raise NotText("http_status", f"no HTTP response at {url}", 0.0, 200.0)
    status = headers.status_code
    if status != 200:
        raise NotText("http_status", f"{headers.status_line} at {url}", float(status or 0), 200.0)
    content_type, charset = (record.http_content_type or "").strip().lower(), record.http_charset
    if content_type and content_type not in _HTML:
        raise NotText("not_html", f"{content_type} at {url}")
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
    http_end = HEADER_END.search(block, 0, MAX_HEADER) if block.startswith(b"HTTP/") else None
    http = block[: http_end.end()] if http_end else b""
    if b"\r\n" in head[:200] and (not http or b"\r\n" in http):
        return data
    http_fixed = http.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    length = len(block) - len(http) + len(http_fixed)
    head = LENGTH.sub(b"\nContent-Length: %d\r\n" % length, head.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
    return head + http_fixed + block[len(http) :]
