"""The ledger: one row for each document that a stage dropped or changed, and for each input it could not read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

LEDGER_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("source", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("action", pa.string(), nullable=False),
        pa.field("rule", pa.string(), nullable=False),
        pa.field("value", pa.float64()),
        pa.field("threshold", pa.float64()),
        pa.field("twin", pa.string()),
        pa.field("bytes", pa.int64()),
        pa.field("detail", pa.string()),
    ]
)
"""`action` is `dropped` (a document went), `edited` (its text was changed, one row for each rule that did) or
`rejected` (input that never became a document; `id` is null and `detail` says where and why). `value` against
`threshold` is the measurement that decided; `twin` is the id of the kept document that a duplicate repeats; `bytes` is
the text that went, in UTF-8 bytes, and negative where masks are longer than what they hide."""

ACTIONS = ("dropped", "edited", "rejected")


def ledger_table(stage: str, rows: pa.Table | Iterable[Mapping[str, Any]]) -> pa.Table:
    """Return rows as a table of LEDGER_SCHEMA, with `stage` filled in.

    A table may lack columns (they become null) but not bring unknown ones. Raises ValueError for an unknown column
    or action.
    """
    if isinstance(rows, pa.Table):
        unknown = sorted(set(rows.column_names) - set(LEDGER_SCHEMA.names))
        if unknown:
            raise ValueError(f"ledger rows have unknown columns {unknown}; allowed: {LEDGER_SCHEMA.names}")
        columns = []
        for field in LEDGER_SCHEMA:
            if field.name == "stage":
                columns.append(pa.array([stage] * rows.num_rows, field.type))
            elif field.name in rows.column_names:
                columns.append(rows[field.name].cast(field.type))
            else:
                columns.append(pa.nulls(rows.num_rows, field.type))
        table = pa.table(columns, schema=LEDGER_SCHEMA)
    else:
        table = pa.Table.from_pylist([{**row, "stage": stage} for row in rows], schema=LEDGER_SCHEMA)
    unknown_actions = sorted(set(pc.unique(table["action"]).to_pylist()) - set(ACTIONS))
    if unknown_actions:
        raise ValueError(f"ledger rows have unknown actions {unknown_actions}; allowed: {ACTIONS}")
    return table


def count_actions(table: pa.Table) -> dict[str, int]:
    """Return the number of rows of each action; of `edited`, the documents: several rules may edit one."""
    counts = {str(item["values"]): int(item["counts"].as_py()) for item in pc.value_counts(table["action"])}
    if "edited" in counts:
        counts["edited"] = pc.count_distinct(table.filter(pc.equal(table["action"], "edited"))["id"]).as_py()
    return counts
