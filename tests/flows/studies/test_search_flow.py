"""The flow `search` with real trainings: killed in the middle of a trial, started again, and refused."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.plan import make_plan
from flows.studies.search.flow import search
from flows.studies.search.session import Session, trial_of
from flows.studies.study import Study
from flows.studies.trial import Outcome
from pipeline.catalog import query
from tests.flows.conftest import Headrace, wait_until

SYLLABLES = "ri mi wa sto gra lo ver ll ter ne in om".split()


def write_search(folder: Path, **changes: Any) -> Path:
    """A search over a very small run recipe on generated text, with three trials of which the second is long enough."""
    draw = random.Random(1)
    words = ["".join(draw.choices(SYLLABLES, k=2)) for _ in range(60)]
    text = (json.dumps({"text": " ".join(draw.choices(words, k=120))}) + "\n" for _ in range(150))
    (folder / "text.jsonl").write_text("".join(text))
    base = {
        "name": "base",
        "ingest": {"sources": [{"name": "text", "format": "jsonl", "path": str(folder / "text.jsonl")}]},
        "filter": {"language": None, "gopher_quality": None, "gopher_repetition": None, "c4": None, "fineweb": None},
        "tokenizer": {"vocabulary_size": 300, "validation_fraction": 0.1},
        "train": {
            "model": {"layers": 1, "heads": 1, "width": 16, "context_length": 32, "bigram_buckets": 64},
            "training": {"batch_size": 4, "log_every": 50, "evaluation_batches": 2, "device": "cpu"},
        },
        "execution": {"workers": 0, "tasks_per_stage": 1},
    }
    values = {
        "name": "rates",
        "base": base,
        "overrides": ["train.training.steps=120", "train.training.evaluate_every=20"],
        "space": {
            "train.optimizer.learning_rate": {"type": "float", "low": 1e-4, "high": 0.1, "log": True},
            "train.optimizer.name": {"type": "categorical", "choices": ["adamw", "muon"]},
        },
        "sampler": {"name": "tpe", "startup_trials": 2},
        "budget": {"trials": 3},
        "threads": 1,
    } | changes
    path = folder / "rates.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def rows(storage: Path, sql: str) -> list[Any]:
    if not storage.exists():
        return []
    with sqlite3.connect(f"file:{storage}?mode=ro", uri=True, timeout=60) as connection:
        try:
            return connection.execute(sql).fetchall()
        except sqlite3.OperationalError:  # no tables yet
            return []


def test_search_that_is_killed_goes_on_with_the_same_trials(
    tmp_path: Path, prefect_environment: dict[str, str], headrace: Headrace
) -> None:
    recipe, workspace = write_search(tmp_path), tmp_path / "workspace"
    storage = workspace / "studies" / "search.db"
    command = [sys.executable, "-m", "flows.cli", "search", str(recipe), "--workspace", str(workspace)]
    with open(tmp_path / "log", "wb") as log:
        first = subprocess.Popen(
            command, env=prefect_environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    seen = "SELECT number FROM trials JOIN trial_intermediate_values USING (trial_id) WHERE number = 1"
    try:
        wait_until(lambda: bool(rows(storage, seen)) or first.poll() is not None, "the second trial's first loss", 280)
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    settings = "SELECT number, param_name, param_value FROM trial_params JOIN trials USING (trial_id) WHERE number < 2"
    before = rows(storage, settings)
    assert len(before) == 4, (tmp_path / "log").read_text()

    done = headrace("search", str(recipe), "--workspace", str(workspace), "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    facts = json.loads(done.stdout)
    assert [row["state"] for row in facts["history"]] == ["finished"] * 3
    assert rows(storage, settings) == before
    assert [trial["trial"] for trial in facts["trials"]] == ["trial-0000", "trial-0001", "trial-0002"]
    trained = {row["fingerprint"] for row in facts["history"]}
    assert len(trained) == 3
    assert {path.name for path in (workspace / "store" / "train").iterdir()} == trained
    told = query(workspace, "SELECT trial, state, loss FROM trials ORDER BY trial").to_pylist()
    assert [(row["trial"], row["loss"]) for row in told] == [(row["name"], row["loss"]) for row in facts["history"]]

    best = make_plan(facts["best_recipe"], str(workspace))
    assert best.refs["train"].fingerprint == facts["best"]["fingerprint"]
    assert "evaluate" in best.missing
    assert "train" not in best.missing
    assert facts["best"]["name"] in Path(facts["page"]).read_text()

    with pytest.raises(ValueError, match="made with another recipe") as refused:
        search.fn(str(recipe), str(workspace), ["overrides.0=train.training.steps=60"])
    assert "training > steps: there 120, here 60" in str(refused.value)


def test_what_another_worker_has_done_in_the_meantime_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    def elsewhere(session: Any) -> None:
        """The work of this process is done by another one, which shares its storage and its workspace."""
        one = session._storage.ask(session._distributions)
        outcome = Outcome(trial_of(one), "finished", loss=2.0, fingerprint="its")
        session._study.files.write_outcome(outcome)
        session._tell(one, outcome)

    def finish(study: Study, results: Any, page: Any) -> Any:
        told.extend(outcome.trial.name for outcome in study.outcomes)
        return results

    monkeypatch.setattr(Session, "run", elsewhere)
    monkeypatch.setattr(Study, "prepare", lambda study: None)
    monkeypatch.setattr(Study, "finish", finish)
    search.fn(str(write_search(tmp_path)), str(tmp_path / "workspace"))
    assert told == ["trial-0000"]


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ('space={"train.optimizer.beta1": {"type": "float", "low": 0.9, "high": 1.5}}', "beta1=1.5"),
        ("pruner={name: median}", r"evaluate_every \(100\) is not below train.training.steps \(60\)"),
        ("storage=postgresql://ada:secret1@host/x", "holds a password"),
        ("budget={device_hours: 0.0000001}", "smaller than one run"),
    ],
)
def test_search_that_cannot_be(tmp_path: Path, setting: str, said: str) -> None:
    """Nothing has started by then: neither a corpus stage nor a flow."""
    recipe = write_search(tmp_path, overrides=["train.training.steps=60"])
    with pytest.raises(ValueError, match=said):
        search.fn(str(recipe), str(tmp_path / "workspace"), [setting])
    assert not (tmp_path / "workspace" / "store").exists()
