"""Many rows of named fields at once: the records that `record_of` makes of them, as columns.

A row whose text is missing, no string, not UTF-8, too long or empty goes through `record_of` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.sources.cleaning import cleaned
from pipeline.sources.config import Limits, SourceConfig
from pipeline.sources.fields import field_of, record_of, string_or_none
from pipeline.sources.records import RECORD_SCHEMA, Found, iso_date, metadata_json

T = TypeVar("T")


class Rows(Protocol):
    """Some rows of a source."""

    def __len__(self) -> int:
        """Number of rows."""

    def row(self, index: int) -> Mapping[str, Any]:
        """One row."""

    def values(self, field: str) -> list[Any]:
        """A field of each row; None where it is missing."""

    def strings(self, field: str) -> pa.Array | None:
        """A field as strings, null where it is missing; None where it is of another type in some row."""

    def texts(self, field: str) -> pa.LargeStringArray:
        """A field as valid UTF-8, null where it is missing, of another type, or not valid."""


class ObjectRows:
    """Rows that are JSON objects."""

    def __init__(self, objects: Sequence[Mapping[str, Any]]) -> None:
        self._objects = objects

    def __len__(self) -> int:
        return len(self._objects)

    def row(self, index: int) -> Mapping[str, Any]:
        """One row."""
        return self._objects[index]

    def values(self, field: str) -> list[Any]:
        """A field of each row; None where it is missing."""
        if "." in field:
            return [field_of(row, field) for row in self._objects]
        return [row.get(field) for row in self._objects]

    def strings(self, field: str) -> pa.Array | None:
        """A field as strings, null where it is missing; None where it is of another type in some row."""
        return _array_of_strings(self.values(field), pa.string())

    def texts(self, field: str) -> pa.LargeStringArray:
        """A field as valid UTF-8, null where it is missing, of another type, or not valid."""
        values = self.values(field)
        found = _array_of_strings(values, pa.large_string())
        return _texts_one_by_one(values) if found is None else found  # type: ignore[return-value]


class TableRows:
    """Rows of a table whose strings are valid UTF-8."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self._batch = batch

    def __len__(self) -> int:
        return self._batch.num_rows

    def row(self, index: int) -> Mapping[str, Any]:
        """One row."""
        return self._batch.slice(index, 1).to_pylist()[0]

    def values(self, field: str) -> list[Any]:
        """A field of each row; None where it is missing."""
        return self._column(field).to_pylist()

    def strings(self, field: str) -> pa.Array | None:
        """A field as strings, null where it is missing; None where it is of another type."""
        column = self._column(field)
        return column.cast(pa.large_string()) if _is_string(column.type) else None

    def texts(self, field: str) -> pa.LargeStringArray:
        """A field as valid UTF-8, null where it is missing, of another type, or not valid."""
        column = self._column(field)
        if _is_string(column.type) or _is_binary(column.type):
            try:
                return column.cast(pa.large_string())  # type: ignore[return-value]
            except pa.ArrowInvalid:  # bytes that are no UTF-8
                return _texts_one_by_one(column.to_pylist())
        return pa.nulls(len(self), pa.large_string())  # type: ignore[return-value]

    def _column(self, field: str) -> pa.Array:
        """The column of a name, or for a.b the field b of the structures in a: see `field_of`."""
        names = self._batch.schema.names
        if field in names or "." not in field:
            return self._batch.column(field) if field in names else pa.nulls(len(self))
        outer, _, inner = field.partition(".")
        column = self._column(outer)
        if not pa.types.is_struct(column.type):
            return pa.nulls(len(self))
        return TableRows(pa.RecordBatch.from_struct_array(_without_nulls(column)))._column(inner)


def records_of(rows: Rows, locators: Sequence[str], source: SourceConfig, limits: Limits) -> Iterator[Found]:
    """Yield the records of rows in their order, as many at once as there are in a row, and what is none."""
    texts = rows.texts(source.text_field)
    sizes = pc.binary_length(texts).fill_null(0).to_numpy()
    texts = cleaned(texts)
    good = (sizes <= limits.max_document_bytes) & (pc.binary_length(texts).to_numpy() > 0)
    columns = _columns(rows, locators, texts, source)
    done = 0
    for index in np.flatnonzero(~good).tolist():
        if index > done:
            yield columns.slice(done, index - done)
        yield record_of(locators[index], rows.row(index), source, limits)
        done = index + 1
    if len(rows) > done:
        yield columns.slice(done)


def _columns(rows: Rows, locators: Sequence[str], texts: pa.Array, source: SourceConfig) -> pa.RecordBatch:
    dates = rows.values(source.date_field) if source.date_field else [None] * len(rows)
    days = _mapped(iso_date, dates)
    columns = {
        "locator": pa.array(locators, pa.string()),
        "text": texts,
        "url": _strings(rows, source.url_field, None),
        "date": pa.array(days, pa.string()),
        "license": _strings(rows, source.license_field, source.license),
        "language": _strings(rows, source.language_field, source.language),
        "metadata": _metadata(rows, dates, days, source),
    }
    return pa.record_batch(columns, schema=RECORD_SCHEMA)


def _metadata(rows: Rows, dates: Sequence[Any], days: Sequence[str | None], source: SourceConfig) -> pa.Array:
    """The metadata fields as JSON, with the date where it is none."""
    wrong = [index for index, (date, day) in enumerate(zip(dates, days, strict=True)) if date is not day is None]
    names = source.metadata_fields
    if not names and not wrong:
        return pa.nulls(len(rows), pa.string())
    fields = zip(*(rows.values(name) for name in names), strict=True) if names else iter([()] * len(rows))
    found = [dict(zip(names, values, strict=True)) for values in fields]
    for index in wrong:
        found[index].setdefault(source.date_field or "", dates[index])
    return pa.array(map(metadata_json, found), pa.string())


def _strings(rows: Rows, field: str | None, otherwise: str | None) -> pa.Array:
    """A field as strings, with another value where there is none."""
    if field is None:
        return pa.repeat(pa.scalar(otherwise, pa.string()), len(rows))
    found = rows.strings(field)
    if found is None:
        found = pa.array(map(string_or_none, rows.values(field)), pa.string())
    if pc.any(pc.equal(found, "")).as_py():
        found = pc.if_else(pc.equal(found, ""), pa.scalar(None, found.type), found)
    if otherwise is not None:
        found = found.fill_null(otherwise)
    return found.cast(pa.string())


def _mapped(function: Callable[[Any], T], values: Sequence[Any]) -> list[T]:
    """A function of each value, called once for equal values."""
    try:
        known = {value: function(value) for value in set(values)}
    except TypeError:  # a list or an object, which no set holds
        return [function(value) for value in values]
    return [known[value] for value in values]


def _array_of_strings(values: Sequence[Any], kind: pa.DataType) -> pa.Array | None:
    try:
        return pa.array(values, kind)
    except (pa.ArrowException, UnicodeEncodeError):  # another type, a lone surrogate
        return None


def _texts_one_by_one(values: Iterable[Any]) -> pa.LargeStringArray:
    return pa.array(map(_text_or_none, values), pa.large_string())  # type: ignore[return-value]


def _text_or_none(value: Any) -> str | None:
    try:
        if isinstance(value, bytes):
            return value.decode()
        if isinstance(value, str):
            value.encode()
            return value
    except UnicodeError:
        pass
    return None


def _is_string(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_string(kind.value_type)
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _without_nulls(structures: pa.StructArray) -> pa.StructArray:
    """Structures whose fields are null where they were null themselves."""
    return pa.StructArray.from_arrays(structures.flatten(), fields=list(structures.type))
