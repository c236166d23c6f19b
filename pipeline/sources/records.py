"""What a reader finds: a record that becomes a document, or the reason why it does not."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
import pyarrow as pa

from pipeline.documents import DOCUMENT_SCHEMA

MAX_METADATA_DEPTH = 100
_YEAR_OR_MONTH = re.compile(r"\d{4}(-(0[1-9]|1[0-2]))?", re.ASCII)


@dataclass(slots=True)
class Record:
    """One document of a source. `locator` is `<file>#<place>`, `metadata` a JSON object or None."""

    locator: str
    text: str
    url: str | None = None
    date: str | None = None
    license: str | None = None
    language: str | None = None
    metadata: str | None = None


@dataclass(slots=True)
class Rejected:
    """Input that could not be read: never a document. `value` against `threshold` where a limit bit."""

    locator: str
    rule: str
    detail: str
    value: float | None = None
    threshold: float | None = None


@dataclass(slots=True)
class Dropped:
    """A record that was read and is no document by a rule of its format, such as a redirect."""

    locator: str
    rule: str
    text: str
    detail: str
    value: float | None = None


Item = Record | Rejected | Dropped

RECORD_SCHEMA = pa.schema([field for field in DOCUMENT_SCHEMA if field.name not in ("id", "source")])
"""Records as columns, named as the fields of `Record`; none of their texts is empty."""

Found = Item | pa.RecordBatch
"""What a reader yields: an item, or many records at once (of RECORD_SCHEMA)."""


def clean_text(text: str) -> str:
    """Return text as documents hold it: line ends as \\n, no NUL, no outer white space."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if "\0" in text:
        text = text.replace("\0", "\ufffd")
    return text.strip()


def replace_surrogates(text: str) -> str:
    """Return text with surrogate pairs joined and lone surrogates as U+FFFD, so that it is valid UTF-8."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def metadata_json(values: Mapping[str, Any]) -> str | None:
    """Return values that are not None as a JSON object with sorted keys, or None where there are none.

    Dates become ISO 8601 strings; what JSON has no form for becomes its text; lone surrogates become U+FFFD.
    """
    present = {key: value for key, value in values.items() if value is not None}
    if not present:
        return None
    options = orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS
    try:
        return orjson.dumps(present, default=_plain, option=options).decode()
    except TypeError:  # orjson refuses lone surrogates, integers beyond 64 bits and deep nesting
        return orjson.dumps(_sanitised(present, MAX_METADATA_DEPTH), default=_plain, option=options).decode()


def _plain(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _sanitised(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return replace_surrogates(value)
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
        return float(value) if abs(value) < 1 << 1023 else None
    if isinstance(value, Mapping | list | tuple) and not depth:
        return None
    if isinstance(value, Mapping):
        return {replace_surrogates(str(key)): _sanitised(item, depth - 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_sanitised(item, depth - 1) for item in value]
    return value


def iso_date(value: Any) -> str | None:
    """Return a date as ISO 8601, or None where it is not one (numbers are not guessed at)."""
    if isinstance(value, str):
        value = value.strip()
        if _YEAR_OR_MONTH.fullmatch(value):
            return value
        try:
            datetime.fromisoformat(value)
        except ValueError:
            return None
        return value
    isoformat = getattr(value, "isoformat", None)
    return isoformat() if isoformat else None
