"""JSON Lines: one JSON object a line, in UTF-8, plain or compressed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import orjson

from pipeline.sources.compression import detect
from pipeline.sources.config import Limits, SourceConfig
from pipeline.sources.content import BEGINNING, Part, Raw, head, open_pieces, parts_between, runs, split
from pipeline.sources.fields import record_of
from pipeline.sources.files import InputFile, open_input
from pipeline.sources.lines import first_line, lines
from pipeline.sources.records import Item, Rejected

SUFFIXES = (".jsonl", ".ndjson", ".json")
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


def read(part: Part, source: SourceConfig, limits: Limits) -> Iterator[Item]:
    """Yield a record or a reason for each line that is not blank."""
    if part.options == UTF16:
        yield Rejected(part.locator(BEGINNING), "unknown_encoding", "UTF-16; JSON Lines are UTF-8 (RFC 8259, 8.1)")
        return
    for run in runs(open_pieces(part, limits)):
        for offset, line in lines(run, limits.max_record_bytes):
            place = run.place(offset)
            if place == BEGINNING and isinstance(line, bytes):
                line = line.removeprefix(BOM)
            if isinstance(line, int):
                yield Rejected(
                    part.locator(place),
                    "too_large",
                    "the line is longer than max_record_bytes",
                    float(line),
                    float(limits.max_record_bytes),
                )
            elif line and not line.isspace():
                yield _item(part.locator(place), line, source, limits)
        if run.damage:
            yield part.rejected(run.damage)


def _item(locator: str, line: bytes, source: SourceConfig, limits: Limits) -> Item:
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
    return record_of(locator, value, source, limits)


def _lenient(line: bytes) -> Any:
    # Python's own writer puts NaN and lone surrogates into JSON, which orjson refuses: such lines are still read.
    return json.loads(line.decode())
