"""SQL for relations over committed files and over facts from manifests; pure functions from values to text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipeline.sql import quoted
from pipeline.store import File

_TYPES = {
    pa.string(): "VARCHAR",
    pa.large_string(): "VARCHAR",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.float32(): "FLOAT",
    pa.float64(): "DOUBLE",
    pa.bool_(): "BOOLEAN",
}


def identifier(name: str) -> str:
    """Return a quoted identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: Any) -> str:
    """Return a scalar as SQL."""
    if value is None:
        return "NULL"
    return quoted(value) if isinstance(value, str) else repr(value).lower()


def columns_of(schema: pa.Schema) -> dict[str, str]:
    """Return the DuckDB type of each column of an Arrow schema."""
    return {field.name: _TYPES[field.type] for field in schema}


def parquet(files: Iterable[File], columns: Mapping[str, str]) -> str:
    """Return a query over Parquet files, the empty ones left out; without any, one with these columns and no rows."""
    paths = [exact(file.path) for file in files if file.rows]
    if not paths:
        return values([], columns)
    return f"SELECT * FROM read_parquet([{', '.join(quoted(path) for path in paths)}])"


def values(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """Return a query that gives rows as they stand here; a column that a row lacks is null."""
    names = ", ".join(identifier(name) for name in columns)
    casts = ", ".join(f"CAST({identifier(name)} AS {kind}) AS {identifier(name)}" for name, kind in columns.items())
    body = ", ".join("(" + ", ".join(literal(row.get(name)) for name in columns) + ")" for row in rows)
    if not rows:
        body = "(" + ", ".join("NULL" for _ in columns) + ")"
    return f"SELECT {casts} FROM (VALUES {body}) AS t({names})" + ("" if rows else " WHERE false")


def exact(path: str) -> str:
    """Return a path with escapes for what read_parquet would take for a pattern."""
    return re.sub(r"([\[*?])", r"[\1]", path)
