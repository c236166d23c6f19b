"""JSON Lines: one JSON object a line, in UTF-8, plain or compressed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import orjson

from pipeline.sources.columns import ObjectRows, records_of
from pipeline.sources.compression import detect
from pipeline.sources.config import MIB, Limits, SourceConfig
from pipeline.sources.content import BEGINNING, Part, Raw, head, open_pieces, parts_between, runs, split
from pipeline.sources.files import InputFile, open_input
from pipeline.sources.lines import first_line, lines
from pipeline.sources.records import Found, Rejected

SUFFIXES = (".jsonl", ".ndjson", ".json")
BATCH_BYTES = MIB
BOM = b"\xef\xbb\xbf"
UTF16 = {"encoding": "utf-16"}
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def plan(file: InputFile, source: SourceConfig, unit_bytes: int, limits: Limits) -> list[Part]:
    """Return the parts of a file: ranges of whole lines."""
    with open_input(file) as stream:
        raw = Raw(stream, file.size)
        compression = detect(bytes(raw.view(0, 16)))
        if head(raw, compression, limits).startswith(_UTF16):
            return [replace(part, options=UTF16) for part in parts_between(file, compression, [BEGINNING])]
        return split(file, raw, compression, unit_bytes, first_line, limits)


def read(part: Part, source: SourceConfig, limits: Limits) -> Iterator[Found]:
    """Yield the records, and a reason for each line that is none and not blank."""
    if part.options == UTF16:
        yield Rejected(part.locator(BEGINNING), "unknown_encoding", "UTF-16; JSON Lines are UTF-8 (RFC 8259, 8.1)")
        return
    rows: list[dict[str, Any]] = []
    locators: list[str] = []
    size = 0
    for locator, line in _lines(part, limits):
        row = line if isinstance(line, Rejected) else _row(locator, line)
        if isinstance(row, dict) and isinstance(line, bytes):
            rows.append(row)
            locators.append(locator)
            size += len(line)
        if rows and (size >= BATCH_BYTES or isinstance(row, Rejected)):
            yield from records_of(ObjectRows(rows), locators, source, limits)
            rows, locators, size = [], [], 0
        if isinstance(row, Rejected):
            yield row
    if rows:
        yield from records_of(ObjectRows(rows), locators, source, limits)


def _lines(part: Part, limits: Limits) -> Iterator[tuple[str, bytes | Rejected]]:
    """Yield each line that is not blank, or why it is none, with its locator."""
    for run in runs(open_pieces(part, limits)):
        for offset, line in lines(run, limits.max_record_bytes):
            place = run.place(offset)
            if place == BEGINNING and isinstance(line, bytes):
                line = line.removeprefix(BOM)
            if isinstance(line, int):
                detail, longest = "the line is longer than max_record_bytes", float(limits.max_record_bytes)
                locator = part.locator(place)
                yield locator, Rejected(locator, "too_large", detail, float(line), longest)
            elif line and not line.isspace():
                yield part.locator(place), line
        if run.damage:
            rejected = part.rejected(run.damage)
            yield rejected.locator, rejected


def _row(locator: str, line: bytes) -> dict[str, Any] | Rejected:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        try:
            value = _lenient(line)
        except UnicodeDecodeError as error:
            return Rejected(locator, "undecodable_bytes", f"no UTF-8 at byte {error.start} of the line: {error.reason}")
        except (ValueError, RecursionError) as error:
            return Rejected(locator, "broken_record", f"no JSON: {error}")
    if not isinstance(value, dict):
        return Rejected(locator, "wrong_type", f"the line is a JSON {type(value).__name__}, not an object")
    return value


def _lenient(line: bytes) -> Any:
    # Python's own writer puts NaN and lone surrogates into JSON, which orjson refuses: such lines are still read.
    return json.loads(line.decode())
