"""Jobs from the command line, under a real Prefect server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.flows.conftest import Headrace
from tests.flows.job_workspace import make_workspace, recipes, write_data
from tests.flows.test_main_job import api, artifacts
from tests.flows.tiny import write_recipe

pytestmark = pytest.mark.server


def test_a_suite_from_the_command_line(headrace: Headrace, prefect_environment: dict[str, str], tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "work space")
    data = write_data(tmp_path / "data")
    path = write_recipe(tmp_path / "quizzes.yaml", recipes(data)["suites"])
    arguments = ("suite", str(path), "--workspace", str(workspace), "--data", str(data))
    done = headrace(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "quiz: accuracy" in done.stdout
    flows = {item["name"] for item in api(prefect_environment, "flows/filter", {})}
    assert "suite" in flows
    rows = json.loads(artifacts(prefect_environment, "quizzes-suites-tasks")[0]["data"])
    assert [row["metric"] for row in rows if row["main"]] == ["accuracy"]
    assert "quiz: accuracy" in artifacts(prefect_environment, "quizzes-suites-summary")[0]["data"]
    assert "quizzes-suites-course" in {item["key"] for item in api(prefect_environment, "artifacts/filter", {})}
    before = {file: file.stat().st_mtime_ns for file in (workspace / "store").rglob("*") if file.is_file()}
    again = headrace(*arguments, "--json")
    assert json.loads(again.stdout)["metrics"]["quiz/cleaned"] == 0.0
    assert before == {file: file.stat().st_mtime_ns for file in (workspace / "store").rglob("*") if file.is_file()}
    (data / "quiz.jsonl").write_text('{"question": "Who?", "choices": ["a", "b"]}\n')
    refused = headrace(*arguments)
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert "answer" in refused.stderr
    states = [json.loads(path.read_text())["state"] for path in (workspace / "jobs").glob("*.json")]
    assert sorted(states) == ["failed", "finished"]
