"""Parquet: a document is a row; row groups are read one after the other, and only the columns that are wanted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.sources.columns import TableRows, records_of
from pipeline.sources.config import MIB, Limits, SourceConfig
from pipeline.sources.content import Part
from pipeline.sources.fields import record_of
from pipeline.sources.files import InputFile, open_input
from pipeline.sources.records import Found, Rejected

SUFFIXES = (".parquet", ".pq")
BATCH_BYTES = 4 * MIB
MAX_BATCH_ROWS = 4096


def plan(file: InputFile, source: SourceConfig, unit_bytes: int, limits: Limits) -> list[Part]:
    """Return the parts of a file: ranges of row groups."""
    try:
        with open_input(file) as stream:
            metadata = pq.read_metadata(stream)
    except (OSError, pa.ArrowException) as error:
        return [_part(file, file.size, {"broken": f"no Parquet file can be read here: {error}"})]
    columns = metadata.schema.to_arrow_schema().names
    if _column(source.text_field, columns) is None:
        names = ", ".join(map(repr, columns[:20]))
        return [_part(file, file.size, {"missing": f"no column {source.text_field!r}; the file has {names}"})]
    parts: list[Part] = []
    first_row = begun = weight = 0
    for group in range(metadata.num_row_groups):
        size = _stored_bytes(metadata.row_group(group))
        if group > begun and weight + size > unit_bytes:
            parts.append(_part(file, weight, {"groups": [begun, group], "row": first_row}))
            first_row += sum(metadata.row_group(index).num_rows for index in range(begun, group))
            begun, weight = group, 0
        weight += size
    if metadata.num_row_groups > begun or not parts:
        parts.append(_part(file, weight, {"groups": [begun, metadata.num_row_groups], "row": first_row}))
    return parts


def read(part: Part, source: SourceConfig, limits: Limits) -> Iterator[Found]:
    """Yield the records, and a reason for each row that is none.

    The locator's place is the number of the row in the file.
    """
    for problem, rule in (("broken", "broken_file"), ("missing", "missing_field")):
        if problem in part.options:
            yield Rejected(part.locator(0), rule, part.options[problem])
            return
    row = part.options["row"]
    with open_input(part) as stream:
        file = pq.ParquetFile(stream)
        columns = _wanted(source, file.schema_arrow.names)
        for group in range(*part.options["groups"]):
            described = file.metadata.row_group(group)
            yield from _group(file, group, columns, row, part, source, limits)
            row += described.num_rows


def _group(
    file: pq.ParquetFile,
    group: int,
    columns: list[str],
    first_row: int,
    part: Part,
    source: SourceConfig,
    limits: Limits,
) -> Iterator[Found]:
    described = file.metadata.row_group(group)
    size = described.total_byte_size
    if size > limits.max_decompressed_bytes:
        detail = f"row group {group} decompresses to more than max_decompressed_bytes"
        limit = float(limits.max_decompressed_bytes)
        yield Rejected(part.locator(first_row), "decompression_limit", detail, float(size), limit)
        return
    rows = max(1, min(MAX_BATCH_ROWS, described.num_rows * BATCH_BYTES // max(1, size)))
    row = first_row
    try:
        for batch in file.iter_batches(batch_size=rows, row_groups=[group], columns=columns, use_threads=False):
            locators = [part.locator(number) for number in range(row, row + batch.num_rows)]
            yield from _batch(batch, locators, source, limits)
            row += batch.num_rows
    except (OSError, pa.ArrowException) as error:
        lost = described.num_rows - (row - first_row)
        yield Rejected(part.locator(row), "broken_record", f"row group {group}, {lost} rows: {error}", float(lost))


def _batch(batch: pa.RecordBatch, locators: Sequence[str], source: SourceConfig, limits: Limits) -> Iterator[Found]:
    if _is_sound(batch):
        with contextlib.suppress(pa.ArrowException):  # a type that Arrow has no cast for: its rows one by one
            return iter([*records_of(TableRows(batch), locators, source, limits)])
    return _one_by_one(batch, locators, source, limits)


def _one_by_one(
    batch: pa.RecordBatch, locators: Sequence[str], source: SourceConfig, limits: Limits
) -> Iterator[Found]:
    for index, locator in enumerate(locators):
        try:
            row = batch.slice(index, 1).to_pylist()[0]
        except UnicodeDecodeError as error:
            detail = f"no UTF-8 at byte {error.start} of a string column: {error.reason}"
            yield Rejected(locator, "undecodable_bytes", detail)
        else:
            yield record_of(locator, row, source, limits)


def _is_sound(batch: pa.RecordBatch) -> bool:
    """Return whether all strings are UTF-8 (a file may call any bytes a string) and each column has its own name."""
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return len(set(batch.schema.names)) == batch.num_columns


def _column(name: str | None, columns: list[str]) -> str | None:
    """Return the column that a field is in, `a` for `a.b`; None where there is none."""
    if name is None:
        return None
    return name if name in columns else next((name[:dot] for dot in _dots(name) if name[:dot] in columns), None)


def _dots(name: str) -> Iterator[int]:
    return (index for index, character in enumerate(name) if character == ".")


def _wanted(source: SourceConfig, columns: list[str]) -> list[str]:
    fields = (
        *(source.text_field, source.url_field, source.date_field, source.language_field, source.license_field),
        *source.metadata_fields,
    )
    wanted = {_column(field, columns) for field in fields}
    return [column for column in columns if column in wanted]


def _stored_bytes(group: Any) -> int:
    return sum(group.column(index).total_compressed_size for index in range(group.num_columns))


def _part(file: InputFile, weight: int, options: dict[str, Any]) -> Part:
    return Part(file.name, file.path, file.size, file.stamp, weight=weight, options=options)
