"""What goes wrong outside: each fault has a clear message and an exit code, and nothing half-written is believed."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.plan import CORPUS_STAGES, Plan, make_plan
from pipeline.catalog import build, query
from pipeline.execution import run_stage
from pipeline.stage import StageError
from pipeline.store import StoreError
from tests.flows.conftest import Headrace, answers, free_port, wait_until
from tests.flows.tiny import recipe, write_corpus, write_recipe


@pytest.fixture
def values(tmp_path: Path) -> dict[str, Any]:
    write_corpus(tmp_path / "corpus")
    return recipe(tmp_path / "corpus")


def run_corpus(plan: Plan, names: tuple[str, ...] = CORPUS_STAGES) -> None:
    for name in (name for name in names if name in plan.stages):
        run_stage(plan.stages[name], plan.store, workers=0)
    build(plan.workspace, plan.refs)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"name": "gone", "format": "jsonl", "path": "/nowhere/at-all.jsonl"}, r"gone.*/nowhere/at-all.jsonl"),
        ({"name": "odd", "format": "docx", "path": "/nowhere"}, r"ingest.sources.0.format: .*'jsonl'"),
        ({"name": "none", "format": "jsonl", "path": "{corpus}/*.nothing"}, r"none.*\*.nothing"),
    ],
)
def test_a_source_that_cannot_be_read_fails_before_any_work(
    values: dict[str, Any], source: dict[str, Any], message: str, tmp_path: Path
):
    source = {name: text.replace("{corpus}", str(tmp_path / "corpus")) for name, text in source.items()}
    values["ingest"]["sources"] = [source]
    with pytest.raises(ValueError, match=message):
        make_plan(values, str(tmp_path / "workspace"))
    assert not (tmp_path / "workspace").exists()


def test_the_command_line_tells_a_wrong_recipe_by_exit_code_two(values: dict[str, Any], tmp_path: Path):
    values["train"]["training"]["step"] = 3
    path = write_recipe(tmp_path / "recipe.yaml", values)
    command = [sys.executable, "-m", "flows.cli", "run", str(path), "-w", str(tmp_path / "workspace")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == 2
    assert "train.training.step: unknown key; did you mean 'steps'?" in done.stderr
    assert not (tmp_path / "workspace").exists()


def test_truncated_and_broken_input_reaches_the_ledger(values: dict[str, Any], tmp_path: Path):
    chinese = tmp_path / "corpus" / "chinese.jsonl.gz"
    chinese.write_bytes(chinese.read_bytes()[:-200])
    plan = make_plan(values, str(tmp_path / "workspace"))
    run_corpus(plan)
    rejected = query(plan.workspace, "SELECT source, rule FROM ledger WHERE action = 'rejected'").to_pylist()
    assert {(row["source"], row["rule"]) for row in rejected} == {
        ("english", "broken_record"),
        ("chinese", "truncated_stream"),
        ("notes", "undecodable_bytes"),
    }
    kept = query(plan.workspace, "SELECT count(*) AS n FROM ingested WHERE source = 'chinese'").to_pylist()[0]["n"]
    assert 0 < kept < 60


def test_an_empty_corpus_says_where_the_documents_went(values: dict[str, Any], tmp_path: Path):
    (tmp_path / "corpus" / "english.jsonl").write_text("")
    values["ingest"]["sources"] = values["ingest"]["sources"][:1]
    plan = make_plan(values, str(tmp_path / "workspace"))
    with pytest.raises(StageError, match="no text to train a tokenizer on"):
        run_corpus(plan)
    assert plan.missing == ["tokenizer", "tokenize", "marks", "train", "evaluate"]


def test_filters_that_remove_everything_say_so(values: dict[str, Any], tmp_path: Path):
    values["filter"] = {"language": {"allowed": ["sw"]}}
    plan = make_plan(values, str(tmp_path / "workspace"))
    with pytest.raises(StageError, match="no text to train a tokenizer on.*headrace funnel"):
        run_corpus(plan)
    build(plan.workspace, plan.refs)
    (row,) = query(plan.workspace, "SELECT read, kept, dropped FROM funnel WHERE stage = 'filter'").to_pylist()
    assert row["kept"] == 0
    assert row["read"] == row["dropped"] > 100


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """Mount a small file system of its own; skips where that is not allowed."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_told_and_after_it_the_run_goes_on(values: dict[str, Any], tmp_path: Path):
    disk = tmp_path / "disk"
    with mounted(disk, "size=160k"):
        plan = make_plan(values, str(disk / "workspace"))
        with pytest.raises(StoreError, match="no space left on the disk.*start the same command again"):
            run_corpus(plan)
        first_missing = plan.missing[0]
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        run_corpus(plan)
        assert first_missing in CORPUS_STAGES
        for name in set(CORPUS_STAGES) & plan.refs.keys():
            assert plan.refs[name].committed().verify() == []
        assert not list(disk.rglob("*.tmp-*"))


def test_a_read_only_workspace_is_told(values: dict[str, Any], tmp_path: Path):
    disk = tmp_path / "disk"
    with mounted(disk, "size=1m,ro"):
        plan = make_plan(values, str(disk / "workspace"))
        with pytest.raises(StoreError, match="cannot write to .*choose another --workspace"):
            run_corpus(plan, ("ingest",))


def test_a_run_in_a_read_only_workspace_exits_with_one(values: dict[str, Any], tmp_path: Path, headrace: Headrace):
    (tmp_path / "file").write_text("in the way")
    path = write_recipe(tmp_path / "recipe.yaml", values)
    done = headrace("run", str(path), "-w", str(tmp_path / "file" / "workspace"))
    assert done.returncode == 1
    assert "choose another --workspace" in done.stderr


@pytest.mark.server
def test_a_tracking_server_that_is_down_costs_nothing_but_a_second_start(
    tiny_recipe: Path, headrace: Headrace, prefect_environment: dict[str, str], tmp_path: Path
):
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    arguments = ("run", str(tiny_recipe), "-w", str(tmp_path / "workspace"), "--set", "name=offline")
    down = headrace(*arguments, MLFLOW_TRACKING_URI=uri)
    assert down.returncode == 3, down.stdout + down.stderr
    assert "could not be reached" in down.stderr
    assert "start the same command again" in down.stderr
    assert make_plan(str(tiny_recipe), str(tmp_path / "workspace"), ["name=offline"]).missing == []
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"],
        cwd=tmp_path,
        env={**prefect_environment, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: answers(f"{uri}/health"), "the MLflow server")
        up = headrace(*arguments, "--json", MLFLOW_TRACKING_URI=uri)
        assert up.returncode == 0, up.stdout + up.stderr
        facts = json.loads(up.stdout)
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=uri)
        steps = [metric.step for metric in client.get_metric_history(facts["mlflow_run"], "train/loss")]
        assert steps == [5, 10, 15, 20, 25, 30]
        assert client.get_model_version_by_alias("offline", "best").version == str(facts["model_version"])
    finally:
        server.terminate()
        server.wait(30)


def test_the_environment_is_left_alone():
    # Importing the flows sets defaults only: what the user has chosen stays.
    script = "import os; os.environ['DO_NOT_TRACK'] = 'mine'; import flows; print(os.environ['DO_NOT_TRACK'])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ}, check=True
    )
    assert done.stdout.strip() == "mine"
