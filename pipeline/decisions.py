"""Named conditions over the signals, in SQL: a recipe's own rules, such as `words > 200 OR language = 'zh'`.

A condition is an expression of DuckDB over one document's signals. What could see other documents, files, the time or
chance is refused, so that a decision follows from the document alone and is the same on every run.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from pipeline.quality.rules import Evaluation, did_you_mean

if TYPE_CHECKING:
    import duckdb

PREFIX: Final = "decisions"
SOURCE: Final = "the recipe"

_REFUSED_KINDS: Final = {
    "SUBQUERY": "a query inside the expression",
    "WINDOW": "a window over documents",
    "STAR": "*",
    "PARAMETER": "a parameter",
    "LAMBDA_REF": "a lambda",
}


@contextmanager
def _database() -> "Iterator[duckdb.DuckDBPyConnection]":
    """A database without tables that can reach no file and no network."""
    # Imported here: what the module of a config imports lives as long as pydantic's validators, which is beyond the
    # interpreter's own end, and DuckDB then reports leaks on stderr.
    import duckdb

    with duckdb.connect(":memory:", config={"enable_external_access": "false", "threads": 1}) as connection:
        connection.execute("SET lock_configuration = true")
        yield connection


@cache
def _refused_functions() -> dict[str, str]:
    with _database() as database:
        rows = database.execute("SELECT function_name, function_type, stability FROM duckdb_functions()").fetchall()
    reasons = {}
    for name, kind, stability in rows:
        if kind in ("aggregate", "table", "table_macro", "pragma"):
            reasons[name] = "looks at more than one document"
        elif stability in ("VOLATILE", "CONSISTENT_WITHIN_QUERY"):
            reasons[name] = "may give another answer on another run"
    return reasons


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, Mapping):
        if "class" in tree:
            yield dict(tree)
        for value in tree.values():
            yield from _nodes(value)
    elif isinstance(tree, Sequence) and not isinstance(tree, str):
        for value in tree:
            yield from _nodes(value)


def columns_of(name: str, expression: str) -> list[str]:
    """The columns that an expression reads, in the order in which it names them.

    Raises ValueError where it is no expression over one document, saying what is wrong; `name` is the setting's.
    """
    where = f"{name}: {expression!r}"
    with _database() as database:
        ((text,),) = database.execute("SELECT json_serialize_sql($1)", [f"SELECT ({expression}\n)"]).fetchall()
    refused = _refused_functions()
    parsed = json.loads(text)
    if parsed["error"]:
        raise ValueError(f"{where} is no SQL expression: {parsed.get('error_message', 'it cannot be read')}")
    node = parsed["statements"][0]["node"] if len(parsed["statements"]) == 1 else {}
    if node.get("type") != "SELECT_NODE" or len(node["select_list"]) != 1 or node["from_table"]["type"] != "EMPTY":
        raise ValueError(f"{where} must be one expression, such as words > 200")
    found: dict[str, None] = {}
    for item in _nodes(node["select_list"]):
        if item["class"] in _REFUSED_KINDS:
            raise ValueError(f"{where} holds {_REFUSED_KINDS[item['class']]}; an expression is about one document")
        if item["class"] == "FUNCTION" and item["function_name"] in refused:
            raise ValueError(f"{where}: the function {item['function_name']} {refused[item['function_name']]}")
        if item["class"] == "COLUMN_REF":
            found[item["column_names"][-1]] = None
    return [*found]


def evaluate(name: str, expression: str, rows: pa.Table) -> pa.ChunkedArray:
    """The values of an expression over each row of a table. Raises ValueError, naming the setting, where it fails."""
    from duckdb import Error

    read = columns_of(name, expression)
    with _database() as database:
        database.register("rows", rows.select(read or rows.schema.names[:1]))
        try:
            table = database.sql(f"SELECT ({expression}\n) AS value FROM rows").to_arrow_table()
        except Error as error:
            raise ValueError(f"{name}: {expression!r}: {error}") from None
    assert len(table) == rows.num_rows
    return table["value"]


def check_columns(name: str, expression: str, schema: pa.Schema, what: str) -> None:
    """Raise ValueError where an expression reads a column that is not there, or does not fit the columns' types."""
    for column in columns_of(name, expression):
        if column not in schema.names:
            raise ValueError(
                f"{name}: the {what} have no column {column!r}{did_you_mean(column, schema.names)}; "
                f"they have: {', '.join(schema.names)}"
            )
    evaluate(name, expression, pa.table({field.name: pa.nulls(1, field.type) for field in schema}))


def check_decisions(decisions: Mapping[str, str], schema: pa.Schema) -> None:
    """Raise ValueError where a condition reads a column that the signals lack, or is not true or false."""
    for name, condition in decisions.items():
        check_columns(f"{PREFIX}.{name}", condition, schema, "signals")
        decide({name: condition}, pa.table({field.name: pa.nulls(1, field.type) for field in schema}))


def decide(decisions: Mapping[str, str], signals: pa.Table) -> list[Evaluation]:
    """One evaluation for each condition, value 1 where it holds and 0 where not, with threshold 1.

    Where a condition is null, as over a signal that was not measured, the document stays: the value is NaN.
    """
    evaluations = []
    for name, condition in decisions.items():
        setting = f"{PREFIX}.{name}"
        holds = evaluate(setting, condition, signals)
        if not pa.types.is_boolean(holds.type):
            raise ValueError(f"{setting}: {condition!r} is {holds.type}, not true or false; compare it with something")
        values = holds.combine_chunks().cast(pa.int8()).cast(pa.float64()).to_numpy(zero_copy_only=False)
        read = ", ".join(columns_of(setting, condition))
        evaluations.append(Evaluation(setting, read, "minimum", values, np.ones(len(values)), f"{SOURCE}: {condition}"))
    return evaluations
