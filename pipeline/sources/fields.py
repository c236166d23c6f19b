"""Rows of named fields (a JSON object, a row of a table) as records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.sources.config import Limits, SourceConfig
from pipeline.sources.records import Item, Record, Rejected, clean_text, iso_date, metadata_json, replace_surrogates


def record_of(locator: str, row: Mapping[str, Any], source: SourceConfig, limits: Limits) -> Item:
    """Return the record of a row, or why its text is none."""
    text = field_of(row, source.text_field)
    if text is None:
        return Rejected(locator, "missing_field", _missing(row, source.text_field))
    if isinstance(text, bytes):
        try:
            text = text.decode()
        except UnicodeDecodeError as error:
            detail = f"no UTF-8 at byte {error.start} of {source.text_field}: {error.reason}"
            return Rejected(locator, "undecodable_bytes", detail)
    if not isinstance(text, str):
        return Rejected(locator, "wrong_type", f"{source.text_field} is {type(text).__name__}, not a string")
    rejected = too_large(locator, text, limits)
    if rejected:
        return rejected
    date = field_of(row, source.date_field)
    metadata = {name: field_of(row, name) for name in source.metadata_fields}
    day = iso_date(date)
    if date is not None and day is None and source.date_field:
        metadata.setdefault(source.date_field, date)
    return Record(
        locator,
        clean_text(replace_surrogates(text)),
        url=string_or_none(field_of(row, source.url_field)),
        date=day,
        license=string_or_none(field_of(row, source.license_field)) or source.license,
        language=string_or_none(field_of(row, source.language_field)) or source.language,
        metadata=metadata_json(metadata) if metadata else None,
    )


def field_of(row: Mapping[str, Any], name: str | None) -> Any:
    """Return a field by its name, `a.b` also being b inside a; None where it is missing."""
    if name is None:
        return None
    if name in row or "." not in name:
        return row.get(name)
    outer, _, inner = name.partition(".")
    value = row.get(outer)
    return field_of(value, inner) if isinstance(value, Mapping) else None


def too_large(locator: str, text: str, limits: Limits) -> Rejected | None:
    """Return the rejection of a text that is longer than max_document_bytes in UTF-8."""
    longest = limits.max_document_bytes
    if len(text) * 4 <= longest or (size := len(text.encode("utf-8", "replace"))) <= longest:
        return None
    detail = "the document is longer than max_document_bytes"
    return Rejected(locator, "too_large", detail, float(size), float(longest))


def _missing(row: Mapping[str, Any], name: str) -> str:
    if name in row:
        return f"{name} is null"
    return f"no field {name!r}; it has {', '.join(map(repr, list(row)[:8])) or 'none'}"


def string_or_none(value: Any) -> str | None:
    """Return a value as a string that is valid UTF-8, None where it is missing or empty."""
    if value is None or value == "":
        return None
    return replace_surrogates(value if isinstance(value, str) else str(value))
