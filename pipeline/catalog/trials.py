"""The trials of all studies of a workspace, from the files that the studies keep as they go."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.catalog.relations import columns_of, exact, values
from pipeline.sql import quoted
from pipeline.store import write_bytes_atomically

STUDIES = "studies"
"""The folder of a workspace that holds them."""
TRIALS = "trials.parquet"
COSTS = ("kilowatt_hours", "carbon_grams", "money", "device_hours")
TRIALS_SCHEMA = pa.schema(
    [
        ("study", pa.string()),
        ("kind", pa.string()),
        ("trial", pa.string()),
        ("state", pa.string()),
        ("error", pa.string()),
        ("parameters", pa.string()),
        ("overrides", pa.string()),
        ("loss", pa.float64()),
        ("tokens", pa.int64()),
        ("flops", pa.float64()),
        ("parameter_count", pa.int64()),
        ("matrix_parameters", pa.int64()),
        ("seconds", pa.float64()),
        ("overhead", pa.float64()),
        *((name, pa.float64()) for name in COSTS),
        ("fingerprint", pa.string()),
        ("checkpoint", pa.string()),
    ]
)
"""`parameters` and `overrides` are JSON; `fingerprint` is that of the training in the store. Null: not known."""

COMMENT = "the trials of studies: one row for each training, with its settings (JSON), its held-out loss and its cost"


def write_trials(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the trials of a study, so that a reader sees the old file or the new one.

    A row has the names of TRIALS_SCHEMA, `cost` with those of COSTS, `parameters` and `overrides` as they are.
    """
    found = []
    for row in rows:
        cost = row.get("cost") or {}
        texts = {name: json.dumps(row[name], ensure_ascii=False) for name in ("parameters", "overrides")}
        found.append({**row, **{name: cost.get(name) for name in COSTS}, **texts})
    table = pa.Table.from_pylist(
        [{name: row.get(name) for name in TRIALS_SCHEMA.names} for row in found], schema=TRIALS_SCHEMA
    )
    content = io.BytesIO()
    pq.write_table(table, content)
    write_bytes_atomically(str(path), content.getvalue())


def trials_sql(workspace: str) -> str:
    """The query of the view `trials`; a file that cannot be read is left out."""
    filesystem, folder = fsspec.core.url_to_fs(f"{workspace}/{STUDIES}")
    paths = []
    for path in sorted(filesystem.glob(f"{folder}/*/{TRIALS}")):
        try:
            with filesystem.open(path, "rb") as file:
                if pq.read_schema(file).equals(TRIALS_SCHEMA):
                    paths.append(filesystem.unstrip_protocol(path).removeprefix("file://"))
        except (OSError, pa.ArrowException):
            continue
    if not paths:
        return values([], columns_of(TRIALS_SCHEMA))
    return f"SELECT * FROM read_parquet([{', '.join(quoted(exact(path)) for path in paths)}])"
