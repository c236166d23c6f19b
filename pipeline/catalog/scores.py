"""The scores of all models of a workspace that were judged by suites of tasks, from what those jobs committed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import fsspec
import pyarrow as pa

from pipeline.catalog.relations import columns_of, literal, parquet, values
from pipeline.store import Committed, Store, read_json

SUITES, MEMORIZATION = "suites", "memorization"
SCORES_SCHEMA = pa.schema(
    [
        ("weights_sha256", pa.string()),
        ("step", pa.int64()),
        ("task", pa.string()),
        ("metric", pa.string()),
        ("main", pa.bool_()),
        ("value", pa.float64()),
        ("standard_error", pa.float64()),
        ("baseline", pa.float64()),
        ("items", pa.int64()),
        ("shots", pa.int64()),
        ("contamination", pa.string()),
    ]
)
"""`main`: whether models are compared by this metric of the task; `step` is that of the checkpoint."""

COMMENT = "the scores of judged models: one row for each task and metric; main marks what models are compared by"
_COLUMNS = {"model": "VARCHAR", "suite": "VARCHAR", **columns_of(SCORES_SCHEMA), "fingerprint": "VARCHAR"}


class Judged(NamedTuple):
    """A committed judging, and what its models and its suite are called."""

    committed: Committed
    suite: str
    model: str


def judged(workspace: str) -> list[Judged]:
    """The judgings of a workspace, the oldest first; each once, by the name that it was given last."""
    filesystem, folder = fsspec.core.url_to_fs(f"{workspace}/jobs")
    records = [read_json(filesystem.unstrip_protocol(path)) for path in filesystem.glob(f"{folder}/*.json")]
    store = Store.at(f"{workspace}/store")
    found: dict[str, Judged] = {}
    for record in sorted(records, key=lambda record: float(record["updated"])):
        ref = store.ref(SUITES, record["fingerprint"])
        if record["kind"] == SUITES and ref.is_committed:
            found.pop(ref.fingerprint, None)
            found[ref.fingerprint] = Judged(ref.committed(), record["name"], record["model"]["name"])
    return list(found.values())


def scores_sql(workspace: str) -> str:
    """The query of the view `scores`."""
    parts = [
        f"SELECT {literal(one.model)} AS model, {literal(one.suite)} AS suite, *, "
        f"{literal(one.committed.fingerprint)} AS fingerprint "
        f"FROM ({parquet(one.committed.files('scores'), columns_of(SCORES_SCHEMA))})"
        for one in judged(workspace)
    ]
    return " UNION ALL BY NAME ".join(parts) or values([], _COLUMNS)


def score_rows(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The scores of a judging as rows of SCORES_SCHEMA, from its results.json; of further checkpoints the same metrics.

    A score over a group of tasks stands under the group's name, what was found of memorised text under MEMORIZATION.
    """
    tables = results["tables"]
    groups = [row | {"task": row["group"], "main": True} for row in _rows(tables.get("groups"))]
    first = [*_rows(tables["tasks"]), *groups, *_memorized(tables.get(MEMORIZATION))]
    judged_first = results["checkpoint"]["sha256"]
    rows = []
    for one in [results, *results.get("checkpoints", [])]:
        checkpoint, metrics = one["checkpoint"], one["metrics"]
        if one is not results and checkpoint["sha256"] == judged_first:
            continue
        known = {"weights_sha256": checkpoint["sha256"], "step": checkpoint["step"]}
        for row in first:
            name = f"{row['task']}/{row['metric']}"
            if one is results:
                rows.append(row | known)
            elif name in metrics:
                rows.append(row | known | {"value": metrics[name], "standard_error": metrics.get(f"{name}_error")})
    return [{name: row.get(name) for name in SCORES_SCHEMA.names} for row in rows]


def _memorized(table: Mapping[str, Any] | None) -> Iterator[dict[str, Any]]:
    """The rows of the probe: models are compared by the share of stretches that they write on word for word."""
    for row in _rows(table):
        for name in ("exact", "matched_tokens", "longest_match"):
            metric = f"{row['split']}/{name}_{row['prefix_tokens']}"
            facts = {"task": MEMORIZATION, "metric": metric, "main": name == "exact"}
            yield facts | {"value": float(row[name]), "items": row["samples"]}


def _rows(table: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    return [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]] if table else []
