from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

import pytest

from flows.training_progress import Page
from tests.flows.test_main_job import api, artifacts

PROGRESS: dict[str, Any] = {
    "event": "progress",
    "step": 300,
    "steps": 1000,
    "tokens": 1_228_800,
    "loss": 3.21987,
    "tokens_per_second": 51_234.5,
    "mfu": 0.431,
    "memory_bytes": 12.5e9,
    "data_wait_share": 0.034,
    "cost": 1.5,
    "remaining_seconds": 3700.0,
}


def test_the_page_holds_the_newest_of_each_kind() -> None:
    page = Page()
    assert "starting" in page.markdown()
    page.add({"event": "start", "parameters": 10_700_000, "device": "cuda:0", "precision": "bf16", "processes": 2})
    page.add({**PROGRESS, "step": 100, "loss": 9.0})
    page.add(PROGRESS)
    page.add(
        {"event": "evaluation", "step": 250, "metrics": {"validation/perplexity": 33.25, "validation/loss": "nan"}}
    )
    page.add({"event": "warning", "message": "step 7 is no number"})
    page.add({"event": "rollback", "step": 90, "to": 80, "batches": 10, "message": "a spike"})
    text = page.markdown()
    for wanted in (
        "| Step | 300 of 1,000 (30.0%) |",
        "| Training loss | 3.2199 |",
        "| Tokens per second | 51,234 |",
        "| MFU (PaLM, appendix B; causal attention in full) | 43.1% |",
        "| Peak memory of a process | 12.50 GB |",
        "| Time spent waiting for data | 3.4% |",
        "| Cost so far | 1.50 |",
        "| Time left | 62 min |",
        "| Validation perplexity | 33.2 at step 250 |",
        "| Device | 2 × cuda:0, bf16 |",
        "warning: step 7 is no number",
        "rollback: back from step 90 to step 80: a spike",
    ):
        assert wanted in text, wanted
    assert "9.0000" not in text
    assert "nan" not in text
    assert "| Rollbacks | 1 |" in text
    page.add({"event": "finished", "step": 1000, "skipped_steps": [7, 8], "rollbacks": [{"to": 80}], "metrics": {}})
    for wanted in ("| State | finished |", "| Steps skipped | 2 |", "| Rollbacks | 1 |", "| Time left | 0 s |"):
        assert wanted in page.markdown(), wanted


def test_what_a_model_writes_stays_in_its_block() -> None:
    page = Page()
    evil = "x ```\n# heading | <script>alert(1)</script>"
    page.add({"event": "samples", "step": 5, "samples": [{"prompt": "The", "continuation": evil}]})
    lines = page.markdown().splitlines()
    begin = lines.index("````text")
    assert lines[begin + 1] == "The|x ``` # heading | <script>alert(1)</script>"
    assert lines[begin + 2] == "````"


# The events arrive in the thread of a task, as from `flows.process.run_process`.
SCRIPT = """
import json, sys, time
from prefect import flow, task
from flows import training_progress
from flows.progress import publish

training_progress.UPDATE_SECONDS = 0.2
progress = json.loads(sys.argv[1])

@task
def work():
    publish({"stage": "tokenize", "event": "progress", "loss": 77.0})
    for step in range(1, 11):
        publish({**progress, "stage": "train", "step": step})
        time.sleep(0.3)
    print("ready", flush=True)
    sys.stdin.readline()
    publish({"stage": "train", "event": "finished", "step": 1000, "tokens": 5})

@flow
def training():
    with training_progress.following("paced-training"):
        work.submit().result()

@flow
def nothing_to_train():
    with training_progress.following("idle-training"):
        publish({"stage": "train", "state": "reused"})

training()
nothing_to_train()
"""


@pytest.mark.server
def test_prefect_shows_one_artifact_that_follows_the_run(prefect_environment: dict[str, str]) -> None:
    command = [sys.executable, "-c", SCRIPT, json.dumps(PROGRESS)]
    with subprocess.Popen(
        command, env=prefect_environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        deadline = time.monotonic() + 60
        while "| Step | 10 of 1,000 (1.0%) |" not in artifacts(prefect_environment, "paced-training")[0]["data"]:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.communicate("\n", timeout=60)
    assert process.returncode == 0
    (artifact,) = artifacts(prefect_environment, "paced-training")
    assert artifact["type"] == "markdown"
    assert "| State | finished |" in artifact["data"]
    assert "77.0" not in artifact["data"]
    (run,) = api(prefect_environment, "flow_runs/filter", {"flow_runs": {"id": {"any_": [artifact["flow_run_id"]]}}})
    assert run["state_name"] == "Completed"
    # What the page of a key shows, with the versions of all runs behind it.
    of_key = {"artifacts": {"key": {"any_": ["paced-training"]}}}
    (latest,) = api(prefect_environment, "artifacts/latest/filter", of_key)
    assert latest["data"] == artifact["data"]
    assert artifacts(prefect_environment, "idle-training") == []


@pytest.mark.server
def test_a_dead_server_costs_one_warning(prefect_environment: dict[str, str]) -> None:
    script = """
import time
from prefect import flow
from flows import training_progress
from flows.progress import publish

training_progress.UPDATE_SECONDS = 0.1
def broken(**_):
    raise ConnectionError("nobody there")

@flow
def training():
    training_progress.get_client = broken
    with training_progress.following("dead-training"):
        for step in range(5):
            publish({"stage": "train", "event": "progress", "step": step})
            time.sleep(0.2)
    return step

print(training())
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=prefect_environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.strip() == "4", done.stderr
    assert done.stderr.count("the artifact dead-training could not be updated: nobody there") == 1
