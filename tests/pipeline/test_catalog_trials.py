"""The view of all trials: what studies have written, and nothing of what is broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.catalog import build, query, refresh_trials
from pipeline.catalog.trials import STUDIES, TRIALS, write_trials


def row(study: str, trial: str, **facts: Any) -> dict[str, Any]:
    return {
        "study": study,
        "kind": "search",
        "trial": trial,
        "parameters": {"rate": 0.1},
        "overrides": ["a=1"],
        **facts,
    }


def test_trials_of_all_studies(tmp_path: Path) -> None:
    build(tmp_path, {})
    assert query(tmp_path, "FROM trials").num_rows == 0
    assert "checkpoint" in query(tmp_path, "FROM trials").column_names
    folders = [tmp_path / STUDIES / name for name in ("first [1]*", "second", "broken", "other")]
    for folder in folders:
        folder.mkdir(parents=True)
    first = folders[0] / TRIALS
    write_trials(
        first, [row("first", "a", loss=2.0, cost={"money": 0.5}, state="finished"), row("first", "b", loss=None)]
    )
    write_trials(folders[1] / TRIALS, [row("second", "a", tokens=7)])
    (folders[2] / TRIALS).write_bytes(b"PAR1 cut short")
    refresh_trials(tmp_path)
    sql = "SELECT study, trial, loss, money, tokens, parameters FROM trials ORDER BY ALL"
    found = query(tmp_path, sql).to_pylist()
    assert [(one["study"], one["trial"], one["loss"], one["money"], one["tokens"]) for one in found] == [
        ("first", "a", 2.0, 0.5, None),
        ("first", "b", None, None, None),
        ("second", "a", None, None, 7),
    ]
    assert json.loads(found[0]["parameters"]) == {"rate": 0.1}
    # What a study writes meanwhile is seen without another word.
    write_trials(first, [row("first", "a"), row("first", "b"), row("first", "c")])
    assert query(tmp_path, "SELECT count(*) AS n FROM trials").to_pylist() == [{"n": 4}]
    # The other views stay.
    assert query(tmp_path, "FROM scores").num_rows == 0
