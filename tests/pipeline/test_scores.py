"""Scores of judged models in the catalog: rows from results.json, and a file that several processes change."""

from __future__ import annotations

import fcntl
import threading
from pathlib import Path
from typing import Any

import duckdb
import pytest

from pipeline.catalog import build, query, refresh_scores
from pipeline.catalog.database import CATALOG, LOCK
from pipeline.catalog.scores import score_rows


def results(exact: float = 0.25, later: float = 0.5) -> dict[str, Any]:
    """What a judging of two checkpoints writes."""
    columns = ["task", "metric", "main", "value", "standard_error", "baseline", "centered", "items", "shots"]
    table = {
        "columns": [*columns, "contamination"],
        "rows": [
            ["wiki", "bits_per_byte", True, 1.5, 0.1, None, None, 3, 0, None],
            ["wiki", "perplexity", False, 40.0, None, None, None, 3, 0, None],
        ],
    }
    memory = {
        "columns": ["split", "prefix_tokens", "samples", "exact", "matched_tokens", "longest_match"],
        "rows": [["train", 50, 20, exact, 7.5, 32], ["validation", 50, 10, 0.0, 2.5, 9]],
    }
    first, second = {"sha256": "a", "step": 10}, {"sha256": "b", "step": 20}
    numbers = {"wiki/bits_per_byte": 1.2, "wiki/perplexity": 30.0, "memorization/train/exact_50": later}
    return {
        "checkpoint": first,
        "metrics": {},
        "tables": {"tasks": table, "memorization": memory},
        "checkpoints": [{"checkpoint": first, "metrics": {}}, {"checkpoint": second, "metrics": numbers}],
    }


def test_what_was_memorised_and_perplexities_are_scores() -> None:
    rows = score_rows(results())
    found = {(row["step"], row["task"], row["metric"]): row for row in rows}
    exact = found[10, "memorization", "train/exact_50"]
    assert (exact["value"], exact["main"], exact["items"]) == (0.25, True, 20)
    assert found[10, "memorization", "train/matched_tokens_50"]["main"] is False
    assert found[10, "memorization", "validation/longest_match_50"]["value"] == 9.0
    assert found[20, "memorization", "train/exact_50"]["value"] == 0.5
    assert (found[10, "wiki", "perplexity"]["value"], found[20, "wiki", "perplexity"]["value"]) == (40.0, 30.0)
    assert all(row["weights_sha256"] == ("a" if row["step"] == 10 else "b") for row in rows)


def test_nobody_undoes_what_another_one_has_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One refreshes the scores while another one, who holds the file, puts a new catalog in its place."""
    path = build(tmp_path, {})
    asked: list[str] = []

    def now(workspace: str) -> str:
        asked.append(workspace)
        return f"SELECT '{(tmp_path / 'judged').read_text()}' AS model"

    monkeypatch.setattr("pipeline.catalog.database.scores_sql", now)
    (tmp_path / "judged").write_text("early")
    with open(tmp_path / LOCK, "a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        thread = threading.Thread(target=refresh_scores, args=(tmp_path,))
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
        assert not asked  # what is shown is looked up once it is its turn
        fresh = tmp_path / "fresh.duckdb"
        fresh.write_bytes(path.read_bytes())
        with duckdb.connect(str(fresh)) as connection:
            connection.execute("CREATE VIEW further AS SELECT 7 AS number")
        fresh.replace(tmp_path / CATALOG)
        (tmp_path / "judged").write_text("late")
    thread.join(60)
    assert not thread.is_alive()
    assert query(tmp_path, "FROM further").to_pylist() == [{"number": 7}]
    assert query(tmp_path, "FROM scores").to_pylist() == [{"model": "late"}]
