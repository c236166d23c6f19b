"""What the command of a study starts, and what it tells at the end."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from flows.studies.records import PAGE, RESULTS, read_studies
from pipeline.store import read_json
from training.tracking import find_location


def study_flow(kind: str) -> Any:
    """The Prefect flow of a kind of study: recipe, workspace, overrides; it returns what `Study.finish` does."""
    return getattr(importlib.import_module(f"flows.studies.{kind}.flow"), kind)


def summary(workspace: str | Path, kind: str, fingerprint: str) -> dict[str, Any]:
    """The main facts of the study with this fingerprint as JSON values. Raises ValueError where there is none."""
    records = [record for record in read_studies(workspace, kind) if record.get("fingerprint") == fingerprint]
    if not records:
        raise ValueError(f"{workspace} holds no study of the kind {kind} with the fingerprint {fingerprint}")
    (record,) = records
    folder = Path(record["folder"])
    return {
        "kind": kind,
        "name": record["name"],
        "state": record.get("state"),
        "fingerprint": record["fingerprint"],
        "workspace": str(Path(workspace).resolve()),
        **read_json(str(folder / RESULTS)),
        "results": str(folder / RESULTS),
        "page": str(folder / PAGE),
        "mlflow": find_location(workspace).tracking_uri,
    }


def closing_lines(facts: dict[str, Any]) -> list[str]:
    """What a person wants to read at the end: the findings, and where to look."""
    uri = facts["mlflow"]
    return [
        *facts["lines"],
        f"  page       {facts['page']}",
        f"  results    {facts['results']}",
        f"  trials     headrace query \"FROM trials WHERE study = '{facts['name']}'\"",
        f"  MLflow     {f'mlflow ui --backend-store-uri {uri}' if uri.startswith('sqlite') else uri}",
    ]
