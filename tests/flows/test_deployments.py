"""The deployments of deploy/prefect.yaml, on a real server with a real process worker."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.flows.conftest import ROOT, wait_until
from tests.flows.test_main_job import api
from tests.flows.tiny import recipe, write_corpus, write_recipe

pytestmark = pytest.mark.server


def prefect(environment: dict[str, str], *arguments: str, seconds: float = 280) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "prefect", "--no-prompt", *arguments]
    return subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False
    )


@pytest.fixture(scope="module")
def worker(prefect_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Deploys everything and keeps a process worker running."""
    made = prefect(prefect_environment, "work-pool", "create", "headrace", "--type", "process", "--overwrite")
    assert made.returncode == 0, made.stdout + made.stderr
    deployed = prefect(prefect_environment, "deploy", "--prefect-file", "deploy/prefect.yaml", "--all")
    assert deployed.returncode == 0, deployed.stdout + deployed.stderr
    log = open(tmp_path_factory.mktemp("worker") / "worker.log", "wb")  # noqa: SIM115 - the worker outlives the block
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "headrace", "--type", "process"]
    environment = {**prefect_environment, "PREFECT_WORKER_QUERY_SECONDS": "1"}
    process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
    yield prefect_environment
    children = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
    for child in children:
        if child.is_running():
            child.kill()
    log.close()


def test_the_deployment_runs_to_the_end(worker: dict[str, str], tiny_recipe: Path, tmp_path: Path):
    done = prefect(
        worker,
        *("deployment", "run", "pretrain/full", "--watch"),
        *("--param", f"recipe={tiny_recipe}", "--param", f"workspace={tmp_path}"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "finished successfully" in done.stdout
    assert list((tmp_path / "reports").glob("tiny-*.html"))
    assert list((tmp_path / "store" / "evaluate").glob("*/manifest.json"))


def test_the_schedule_creates_its_runs(worker: dict[str, str]):
    def scheduled() -> list[dict[str, Any]]:
        states = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
        return api(worker, "flow_runs/filter", {**states, "deployments": {"name": {"any_": ["nightly"]}}})

    wait_until(lambda: len(scheduled()) >= 3, "the scheduler to create runs of pretrain/nightly", 60)
    assert all(run["auto_scheduled"] for run in scheduled())
    assert {run["expected_start_time"][11:16] for run in scheduled()} == {"03:00"}


def test_cancelling_the_flow_run_ends_the_training(worker: dict[str, str], tmp_path: Path):
    write_corpus(tmp_path / "corpus")
    values = recipe(tmp_path / "corpus", name="endless")
    values["train"]["training"]["steps"] = 1_000_000
    path = write_recipe(tmp_path / "endless.yaml", values)
    workspace = tmp_path / "workspace"
    started = prefect(
        worker,
        *("deployment", "run", "pretrain/full"),
        *("--param", f"recipe={path}", "--param", f"workspace={workspace}"),
    )
    assert started.returncode == 0, started.stdout + started.stderr

    def training() -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter(["cmdline"]):
            line = process.info["cmdline"] or []
            if "training" in line and any(str(workspace) in part for part in line):
                found.append(process)
        return found

    wait_until(
        lambda: bool(training()) and any(workspace.glob("store/train/*/work/metrics.jsonl")), "the training", 200
    )
    (run,) = api(
        worker,
        "flow_runs/filter",
        {"flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}}, "deployments": {"name": {"any_": ["full"]}}},
    )
    cancelled = prefect(worker, "flow-run", "cancel", run["id"])
    assert cancelled.returncode == 0, cancelled.stdout + cancelled.stderr
    wait_until(lambda: not training(), "the training process to end", 90)
    assert not any(workspace.glob("store/train/*/manifest.json"))
