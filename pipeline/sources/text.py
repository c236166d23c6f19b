"""Plain text: a document is a file, a paragraph or a line."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain

from pipeline.sources.compression import Compression, Damage, Piece, Place, Raw, detect
from pipeline.sources.config import Limits, SourceConfig
from pipeline.sources.content import Part, Run, head, open_pieces, runs, split
from pipeline.sources.fields import too_large
from pipeline.sources.files import InputFile, open_input
from pipeline.sources.lines import first_line, lines
from pipeline.sources.records import Item, Record, Rejected, clean_text

SUFFIXES = (".txt", ".text", ".md", ".rst")
_BLANK = re.compile(rb"\n[ \t\r\f\v]*\n")
_BLANK_LINES = re.compile(rb"(?:[ \t\r\f\v]*\n)*")
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_WIDE = ("utf-16", "utf-32")


def plan(file: InputFile, source: SourceConfig, unit_bytes: int, limits: Limits) -> list[Part]:
    """Return the parts of a file: ranges of whole lines or paragraphs; one part where a document is the file."""
    with open_input(file) as stream:
        raw = Raw(stream, file.size)
        compression = detect(bytes(raw.view(0, 16)))
        encoding = _encoding(raw, compression, source, limits)
        whole = source.delimiter == "file" or encoding.startswith(_WIDE)
        search = first_line if source.delimiter == "line" else first_paragraph
        size = file.size + 1 if whole else unit_bytes
        parts = split(file, raw, compression, size, search, limits)
    return [replace(part, options={"encoding": encoding}) for part in parts]


def read(part: Part, source: SourceConfig, limits: Limits) -> Iterator[Item]:
    """Yield a record or a reason for each file, paragraph or line that is not blank.

    In UTF-16 and UTF-32 files, offsets count bytes of the text in UTF-8.
    """
    pieces = open_pieces(part, limits)
    encoding = part.options["encoding"]
    if encoding.startswith(_WIDE):
        pieces, encoding = _as_utf8(pieces, encoding), "utf-8"
    split_run = {"file": _whole, "paragraph": _paragraphs, "line": lines}[source.delimiter]
    for run in runs(pieces):
        for offset, data in split_run(run, limits.max_record_bytes):
            item = _item(part, run.place(offset), data, encoding, source, limits)
            if item:
                yield item
        if run.damage:
            yield part.rejected(run.damage)
        if source.delimiter == "file":  # what may follow damage is no file
            return


def first_paragraph(content: bytes) -> int:
    """Return where the first paragraph behind a blank line begins, or -1 where more content is needed."""
    blank = _BLANK.search(content)
    if not blank:
        return -1
    after = _BLANK_LINES.match(content, blank.end())
    assert after
    return after.end() if content[after.end() :].strip() else -1


def _encoding(raw: Raw, compression: Compression, source: SourceConfig, limits: Limits) -> str:
    if source.encoding:
        return source.encoding
    content = head(raw, compression, limits)
    return next((encoding for bom, encoding in _BOMS if content.startswith(bom)), "utf-8")


def _item(
    part: Part, place: Place, data: bytes | int, encoding: str, source: SourceConfig, limits: Limits
) -> Item | None:
    locator = part.locator(place)
    if isinstance(data, int):
        detail = f"the {source.delimiter} is longer than max_record_bytes"
        return Rejected(locator, "too_large", detail, float(data), float(limits.max_record_bytes))
    if place == Place(0, 0):
        data = data.removeprefix(codecs.BOM_UTF8)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        rule = "undecodable_bytes"
        return Rejected(locator, rule, f"no {encoding} at byte {error.start} of the {source.delimiter}: {error.reason}")
    rejected = too_large(locator, text, limits)
    if rejected:
        return rejected
    text = clean_text(text)
    if not text and source.delimiter != "file":
        return None  # what separates documents is none
    return Record(locator, text, license=source.license, language=source.language)


def _whole(run: Run, longest: int) -> Iterator[tuple[int, bytes | int]]:
    parts: list[bytes] = []
    for piece in run:
        if run.length <= longest:
            parts.append(piece.data)
        else:
            parts.clear()
    if run.damage is None and run.length:
        yield 0, b"".join(parts) if run.length <= longest else run.length


def _paragraphs(run: Run, longest: int) -> Iterator[tuple[int, bytes | int]]:
    begun: list[bytes] = []
    start, length = 0, -1  # length with line breaks; -1 between paragraphs
    for offset, line in lines(run, longest):
        if isinstance(line, bytes) and (not line or line.isspace()):
            if length >= 0:
                yield start, b"\n".join(begun) if length <= longest else length
            begun, length = [], -1
            continue
        start = offset if length < 0 else start
        length += 1 + (line if isinstance(line, int) else len(line))
        if length <= longest and isinstance(line, bytes):
            begun.append(line)
        else:
            begun.clear()
    if length >= 0 and run.damage is None:
        yield start, b"\n".join(begun) if length <= longest else length


def _as_utf8(pieces: Iterator[Piece | Damage], encoding: str) -> Iterator[Piece | Damage]:
    """Return the same content in UTF-8; what is none in its encoding becomes U+FFFD. It ends with the first damage."""
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    written = 0
    for item in chain(pieces, (None,)):
        if isinstance(item, Damage):
            yield Damage(Place(0, written), item.rule, item.detail, item.value, item.threshold)
            return
        data = decoder.decode(item.data if item else b"", final=item is None).encode()
        if data:
            yield Piece(Place(0, written), data)
            written += len(data)
