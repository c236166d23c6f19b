"""MediaWiki XML exports (https://www.mediawiki.org/wiki/Help:Export): the articles, as plain text.

Inside an export `<` is always escaped in text, so `<page>` in the bytes is a page's beginning. Each page is parsed
alone: a broken one costs itself, and entities of a document type cannot reach it.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from pipeline.sources.compression import Compression, Piece, Place, Raw, detect, read_pieces
from pipeline.sources.config import MIB, Limits, SourceConfig
from pipeline.sources.content import Part, Run, open_pieces, runs, split
from pipeline.sources.fields import too_large
from pipeline.sources.files import InputFile, open_input
from pipeline.sources.records import Dropped, Item, Record, Rejected, clean_text, metadata_json
from pipeline.sources.wikitext import CATEGORIES, FILES, plain_text

SUFFIXES = (".xml",)
HEADER_BYTES = MIB
_INTEGER = re.compile(r"-?[0-9]{1,9}")
_NO_MARK = re.compile(r"\A\s*#\s*\w+\s*:?\s*\[\[[^\[\]\n]+\]\]")
_DECLARED = re.compile(rb"""\A<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")
_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"


def plan(file: InputFile, source: SourceConfig, unit_bytes: int, limits: Limits) -> list[Part]:
    """Return the parts of an export: ranges of whole pages."""
    with open_input(file) as stream:
        raw = Raw(stream, file.size)
        compression = detect(bytes(raw.view(0, 16)))
        options = _header(raw, compression, limits)
        try:
            begin = "<page>".encode(options["encoding"])
        except LookupError:
            begin, unit_bytes = b"<page>", file.size + 1
        # A page's first byte is searched from one byte before: a page that begins where the search does counts.
        parts = split(file, raw, compression, unit_bytes, lambda content: content.find(begin), limits)
    return [replace(part, options=options) for part in parts]


def read(part: Part, source: SourceConfig, limits: Limits) -> Iterator[Item]:
    """Yield a record, a dropped page (redirect, other namespace) or a reason for each page."""
    reader = _Pages(part, source, limits)
    if not reader.known_encoding:
        detail = f"Python knows no encoding {part.options['encoding']!r}"
        yield Rejected(part.locator(part.start), "unknown_encoding", detail)
        return
    for run in runs(open_pieces(part, limits)):
        yield from reader.pages(run)
        if run.damage:
            yield part.rejected(run.damage)


class _Pages:
    def __init__(self, part: Part, source: SourceConfig, limits: Limits) -> None:
        self.part, self.source, self.limits = part, source, limits
        self.encoding: str = part.options["encoding"]
        self.language = source.language or part.options["language"]
        self.base: str | None = part.options["base"]
        self.namespaces: dict[str, int] = part.options["namespaces"]
        self.files = FILES | {name.lower() for name, key in self.namespaces.items() if key in (6, -2)}
        self.categories = CATEGORIES | {name.lower() for name, key in self.namespaces.items() if key == 14}
        try:
            self.begin, self.end = "<page>".encode(self.encoding), "</page>".encode(self.encoding)
            self.known_encoding = True
        except LookupError:
            self.known_encoding = False

    def pages(self, run: Run) -> Iterator[Item]:
        """Yield what each page of a run gives."""
        buffer, base, searched = bytearray(), 0, 0
        inside, longest = False, self.limits.max_record_bytes
        for piece in run:
            buffer += piece.data
            while True:
                if not inside:
                    found = buffer.find(self.begin)
                    drop = found if found >= 0 else max(0, len(buffer) - len(self.begin) + 1)
                    del buffer[:drop]
                    base, searched, inside = base + drop, len(self.begin), found >= 0
                    if not inside:
                        break
                end = buffer.find(self.end, max(len(self.begin), searched - len(self.end)))
                begun = max(len(self.begin), searched - len(self.begin))
                following = buffer.find(self.begin, begun, end if end >= 0 else len(buffer))
                cut = following if following >= 0 else end + len(self.end)
                if following < 0 and end < 0:
                    if len(buffer) <= longest + len(self.end):  # so that neither could still be within the limit
                        searched = len(buffer)
                        break
                    cut = len(buffer) - len(self.begin)
                    yield self._too_large(run, base)
                elif cut > longest:
                    yield self._too_large(run, base)
                elif following >= 0:
                    yield self._unclosed(run, base)
                else:
                    yield self._page(run, base, bytes(buffer[:cut]))
                del buffer[:cut]
                base, inside = base + cut, False
        if inside and run.damage is None:
            if len(buffer) > longest:
                yield self._too_large(run, base)
            elif self.part.end is not None:  # another page begins behind this part
                yield self._unclosed(run, base)
            else:
                locator = self.part.locator(run.place(base))
                yield Rejected(locator, "truncated_stream", "the file ends inside a page")

    def _unclosed(self, run: Run, offset: int) -> Rejected:
        locator = self.part.locator(run.place(offset))
        return Rejected(locator, "broken_record", "the page has no end before the next one begins")

    def _too_large(self, run: Run, offset: int) -> Rejected:
        locator = self.part.locator(run.place(offset))
        limit = float(self.limits.max_record_bytes)
        return Rejected(locator, "too_large", "the page is longer than max_record_bytes", threshold=limit)

    def _page(self, run: Run, offset: int, data: bytes) -> Item:
        locator = self.part.locator(run.place(offset))
        try:
            page = ET.fromstring(data if self.encoding == "utf-8" else data.decode(self.encoding))
        except UnicodeDecodeError as error:
            return Rejected(locator, "undecodable_bytes", f"no {self.encoding}: {error.reason} at byte {error.start}")
        except ET.ParseError as error:
            return _not_well_formed(locator, data, error)
        title = page.findtext("title") or ""
        namespace = self._namespace(page, title)
        revision = page.findall("revision")[-1:]
        text = (revision[0].findtext("text") if revision else None) or ""
        redirect = page.find("redirect")
        if namespace:
            return Dropped(locator, "namespace", "", title, value=float(namespace))
        if redirect is not None or (len(text) < 1000 and _NO_MARK.match(text)):
            target = redirect.get("title") if redirect is not None else None
            return Dropped(locator, "redirect", text, f"{title} -> {target or text.strip()[:200]}")
        if not revision:
            return Rejected(locator, "missing_field", f"the page {title!r} has no revision")
        plain = clean_text(plain_text(text, self.files, self.categories))
        metadata = {"title": title, "page": page.findtext("id"), "revision": revision[0].findtext("id")}
        return too_large(locator, plain, self.limits) or Record(
            locator,
            plain,
            url=self.base + quote(title.replace(" ", "_"), safe="/:(),'!*;@~") if self.base and title else None,
            date=revision[0].findtext("timestamp"),
            license=self.source.license,
            language=self.language,
            metadata=metadata_json(metadata),
        )

    def _namespace(self, page: ET.Element, title: str) -> int:
        number = (page.findtext("ns") or "").strip()
        if _INTEGER.fullmatch(number):
            return int(number)
        # Exports before version 0.6 have no <ns>.
        return self.namespaces.get(title.partition(":")[0], 0) if ":" in title else 0


def _not_well_formed(locator: str, data: bytes, error: ET.ParseError) -> Rejected:
    try:
        data.decode()
    except UnicodeDecodeError as undecodable:
        detail = f"no utf-8: {undecodable.reason} at byte {undecodable.start} of the page"
        return Rejected(locator, "undecodable_bytes", detail)
    except LookupError:
        pass
    return Rejected(locator, "broken_record", f"the page is no well-formed XML: {error}")


def _header(raw: Raw, compression: Compression, limits: Limits) -> dict[str, Any]:
    """Return the encoding of an export, and what its <siteinfo> says: base address, language, namespaces."""
    head = b""
    for piece in read_pieces(raw, compression, Place(0, 0), None, limits):
        if not isinstance(piece, Piece):
            break
        head += piece.data
        if b"<page>" in head or "<page>".encode("utf-16-le") in head or len(head) > HEADER_BYTES:
            break
    options: dict[str, Any] = {"encoding": _encoding(head), "language": None, "base": None, "namespaces": {}}
    try:
        text = head[:HEADER_BYTES].decode(options["encoding"], "replace").partition("<page>")[0].lstrip("\ufeff")
        root = ET.fromstring(re.sub(r"\A\s*<\?xml.*?\?>", "", text, flags=re.DOTALL) + "</mediawiki>")
    except (LookupError, ET.ParseError):
        return options
    options["language"] = root.get(_LANGUAGE)
    for element in root.iter():
        tag = element.tag.rpartition("}")[2]
        if tag == "base" and element.text and "/" in element.text:
            options["base"] = element.text.rpartition("/")[0] + "/"
        elif tag == "namespace" and element.text and _INTEGER.fullmatch(element.get("key") or ""):
            options["namespaces"][element.text] = int(element.get("key") or 0)
    return options


def _encoding(head: bytes) -> str:
    if head.startswith((b"\xff\xfe", b"<\0")):
        return "utf-16-le"
    if head.startswith((b"\xfe\xff", b"\0<")):
        return "utf-16-be"
    declared = _DECLARED.match(head)
    return declared.group(1).decode().lower() if declared else "utf-8"
