"""Trials of a study under a real Prefect server: what comes of each, what is kept, and how it goes on."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows.plan import make_plan
from flows.recipe import RecipeError
from flows.sending import TrackingPending
from flows.studies.command import closing_lines, summary
from flows.studies.recipe import TRIAL_OVERRIDES
from flows.studies.records import read_studies
from flows.studies.study import Study
from flows.studies.trial import Outcome, Point, Trial
from pipeline.catalog import query
from pipeline.store import StoreError
from tests.flows.conftest import ROOT
from tests.flows.studies.mini import OVERRIDES, rates, run_study, study_recipe
from tests.flows.test_main_job import api, artifacts

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("prefect_here")]

DIVERGING = Trial("diverging", ("train.optimizer.learning_rate=1e30", "train.training.gradient_clip=0"), {"rate": 1e30})
FAILING = Trial("failing", ("train.training.device_batch_size=3",), {"rate": 0.0})


def times(workspace: Path) -> dict[Path, int]:
    """When each file of the committed trainings was written."""
    folders = [path.parent for path in (workspace / "store" / "train").glob("*/manifest.json")]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {path: path.stat().st_mtime_ns for path in files}


def mlflow_runs(workspace: Path) -> list[Any]:
    from training.tracking import find_location
    from training.tracking.tracker import Tracker

    client = Tracker(find_location(workspace)).client
    experiment = client.get_experiment_by_name("headrace")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def test_what_comes_of_each_trial(
    tiny_recipe: Path, workspace: Path, prefect_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Point] = []

    def watch(trial: Trial, point: Point) -> bool:
        if trial.name == "rate-0.02":
            seen.append(point)
        return trial.name == "rate-0.02"

    trials = [*rates(0.001), DIVERGING, FAILING, *rates(0.02, steps=400), *rates(0.01)]
    recipe = study_recipe(tiny_recipe)
    good, diverged, failed, pruned, other = outcomes = run_study(recipe, workspace, trials, watch)
    states = [outcome.state for outcome in outcomes]
    assert states == ["finished", "diverged", "failed", "pruned", "finished"]
    # What finished is committed where a run with these settings would look for it.
    overrides = [*TRIAL_OVERRIDES, *OVERRIDES, *trials[0].overrides]
    train = make_plan(str(tiny_recipe), str(workspace), overrides).refs["train"]
    assert train.fingerprint == good.fingerprint
    manifest = train.committed().manifest
    assert [file.attributes["step"] for file in train.committed().files("checkpoints") if "model" in file.path] == [8]
    assert Path(good.checkpoint, "model.safetensors").is_file()
    assert good.loss == manifest["summary"]["metrics"]["validation/loss"]
    assert [point.step for point in good.curve] == [4, 8]
    assert good.curve[-1].flops == good.flops == good.tokens * manifest["summary"]["flops_per_token"]
    assert good.tokens == 8 * 4 * 64
    # 2 layers of width 32: 12 d^2 each (the feed-forward part 4 d wide), and the head of 512 words.
    assert good.matrix_parameters == 2 * 12 * 32**2 + 512 * 32
    assert good.parameters > good.matrix_parameters
    assert 0 < good.seconds < manifest["summary"]["seconds"]
    assert good.overhead > 0
    # What did not finish is named, and committed nowhere.
    assert "became" in diverged.error
    assert "device_batch_size 3 does not divide" in failed.error
    assert [seen[0].step, *(point.step for point in pruned.curve)] == [4, 4]
    assert pruned.curve[0] == seen[0]
    assert pruned.tokens < 400 * 4 * 64
    committed = {path.parent.name for path in (workspace / "store" / "train").glob("*/manifest.json")}
    assert committed == {good.fingerprint, other.fingerprint}
    assert not list((workspace / "store" / "train" / pruned.fingerprint).rglob("model.safetensors"))
    # The files of the study, the catalog, the command's words.
    (record,) = read_studies(workspace)
    facts = summary(workspace, "scaling")
    assert record["state"] == facts["state"] == "finished"
    assert facts["metrics"] == {"best": min(good.loss, other.loss)}
    assert [one["trial"] for one in facts["trials"]] == [trial.name for trial in trials]
    assert "2 of 5 came to their end." in closing_lines(facts)
    assert "<svg" in Path(facts["page"]).read_text()
    rows = query(
        workspace, "SELECT trial, state, loss, parameters->>'rate' AS rate FROM trials ORDER BY trial"
    ).to_pylist()
    assert [(row["trial"], row["state"]) for row in rows] == sorted((o.trial.name, o.state) for o in outcomes)
    assert {row["trial"]: row["rate"] for row in rows}["rate-0.001"] == "0.001"
    # MLflow: the study's run, and a child for each trial with its settings, its curve and its end.
    runs = mlflow_runs(workspace)
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = {run.info.run_name: run for run in runs if run is not parent}
    assert parent.data.metrics["best"] == facts["metrics"]["best"]
    assert parent.info.status == "FINISHED"
    assert {run.data.tags["mlflow.parentRunId"] for run in children.values()} == {parent.info.run_id}
    assert {name: run.info.status for name, run in children.items()} == {
        "rate-0.001": "FINISHED",
        "diverging": "FAILED",
        "failing": "FAILED",
        "rate-0.02": "KILLED",
        "rate-0.01": "FINISHED",
    }
    assert children["rate-0.001"].data.params == {"rate": "0.001"}
    assert children["rate-0.001"].data.metrics["loss"] == pytest.approx(good.loss)
    # Prefect: a subflow for each trial, and the summary.
    names = {"flow_runs": {"name": {"any_": [trial.name for trial in trials]}}}
    found = {run["name"]: run["state_name"] for run in api(prefect_environment, "flow_runs/filter", names)}
    assert found["diverging"] == "Diverged"
    assert found["rate-0.02"] == "Pruned"
    assert found["rate-0.01"] == "Completed"
    assert "2 of 5" in artifacts(prefect_environment, "mini-scaling-summary")[0]["data"]

    # Again: what is done stays as it is, a broken record is made anew, a failed trial is tried again.
    before, folder = times(workspace), Path(record["folder"])
    (folder / "trials" / "rate-0.001.json").write_text('{"trial": ')
    (folder / "trials.parquet").write_bytes(b"PAR1")
    again = run_study(recipe, workspace, trials, watch)
    assert [outcome.state for outcome in again] == states
    assert again[0].loss == good.loss
    assert again[4] == other
    assert times(workspace) == before
    assert len(mlflow_runs(workspace)) == 6
    # The same training in another study is the same training; a dead tracker costs a message, at the end.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setattr("flows.sending.SEND_SECONDS", 1.0)
    with pytest.raises(TrackingPending, match="the study is finished"):
        run_study(study_recipe(tiny_recipe, name="second"), workspace, rates(0.01))
    assert times(workspace) == before
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    run_study(study_recipe(tiny_recipe, name="second"), workspace, rates(0.01))
    assert query(workspace, "SELECT count(*) AS n FROM trials WHERE trial = 'rate-0.01'").to_pylist() == [{"n": 2}]
    assert len(mlflow_runs(workspace)) == 8


def test_killed_it_goes_on_where_it_was(
    tiny_recipe: Path, workspace: Path, prefect_environment: dict[str, str]
) -> None:
    steps = 1200
    command = [sys.executable, "-m", "tests.flows.studies.mini", str(tiny_recipe), str(workspace), str(steps)]
    train = workspace / "store" / "train"

    def of_second(pattern: str) -> list[Path]:
        """Files of the training that goes on beside the one that is committed."""
        committed = {path.parent for path in train.glob("*/manifest.json")}
        found = [path for path in train.glob(f"*/work/{pattern}") if not committed & set(path.parents)]
        return found if len(committed) == 1 else []

    def end_in_second_trial(number: signal.Signals) -> None:
        """Start the study, send it a signal as soon as this process has trained in the second trial, and wait."""
        started = time.time_ns()
        with open(workspace / "study.log", "ab") as log:
            process = subprocess.Popen(command, cwd=ROOT, env=prefect_environment, stdout=log, stderr=log)
        deadline = time.monotonic() + 150
        while not any(path.stat().st_mtime_ns > started for path in of_second("metrics.jsonl")):
            assert process.poll() is None, (workspace / "study.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        children = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, number)
        process.wait(60)
        _, alive = psutil.wait_procs(children, timeout=60)
        assert not alive

    reached = [0]
    for number in (signal.SIGKILL, signal.SIGTERM):  # the worker sees its parent die, or is told to end
        end_in_second_trial(number)
        (checkpoint,) = of_second("checkpoints/step-*/trainer.json")
        reached.append(int(checkpoint.parent.name.removeprefix("step-")))
    assert 0 < reached[1] < reached[2] < steps
    done = times(workspace)
    assert done
    outcomes = run_study(study_recipe(tiny_recipe), workspace, [*rates(0.001), *rates(0.01, steps=steps)])
    assert [outcome.state for outcome in outcomes] == ["finished", "finished"]
    assert done.items() <= times(workspace).items()
    assert outcomes[1].curve[-1].step == steps
    (second,) = [path for path in train.glob("*/metrics/metrics.jsonl") if outcomes[1].fingerprint in str(path)]
    written = [json.loads(line)["step"] for line in second.read_text().splitlines()]
    assert written == list(range(2, steps + 1, 2))


def test_what_is_refused(tiny_recipe: Path, workspace: Path, tmp_path: Path) -> None:
    recipe = study_recipe(tiny_recipe)
    with pytest.raises(RecipeError, match="learning_rat: unknown key"):
        run_study(recipe, workspace, [Trial("one", ("train.optimizer.learning_rat=1",))])
    with pytest.raises(ValueError, match="two trials of a study are called 'one'"):
        run_study(recipe, workspace, [Trial("one"), Trial("one", ("train.training.seed=2",))])
    with pytest.raises(ValueError, match="lower case letters"):
        Trial("../one")
    assert not list((workspace / "store").glob("train/*"))
    with pytest.raises(ValueError, match="use a local --workspace"):
        Study("scaling", recipe, "s3://bucket/workspace")
    with pytest.raises(RecipeError, match="no recipe 'nothing'"):
        Study("scaling", study_recipe(Path("nothing")), str(workspace))
    (tmp_path / "studies").write_text("in the way")
    with pytest.raises(StoreError, match="cannot write to"):
        Study("scaling", recipe, str(tmp_path))


def test_two_at_a_time(tiny_recipe: Path, workspace: Path) -> None:
    one, two = rates(0.001, 0.002, steps=60)
    alone = run_study(study_recipe(tiny_recipe), workspace, [one])
    seen: dict[str, list[float]] = {one.name: [], two.name: []}

    def watch(trial: Trial, point: Point) -> bool:
        seen[trial.name].append(time.monotonic())
        return False

    three = Trial("seed-2", (*one.overrides, "train.training.seed=2"), {"seed": 2})
    seen[three.name] = []
    both = run_study(study_recipe(tiny_recipe, concurrency=2), workspace, [three, two], watch)
    assert [outcome.trial.name for outcome in both] == [three.name, two.name]
    assert all(outcome.finished for outcome in both)
    assert len({outcome.loss for outcome in [*alone, *both]}) == 3
    assert all(len(moments) == 15 for moments in (seen[two.name], seen[three.name]))


def test_a_limit_of_the_server_keeps_trials_apart(
    tiny_recipe: Path, workspace: Path, prefect_environment: dict[str, str]
) -> None:
    api(prefect_environment, "v2/concurrency_limits/", {"name": "one-device", "limit": 1})
    seen: list[str] = []

    def watch(trial: Trial, point: Point) -> bool:
        seen.append(trial.name)
        return False

    recipe = study_recipe(tiny_recipe, concurrency=2, limit="one-device")
    outcomes = run_study(recipe, workspace, rates(0.001, 0.002, steps=40), watch)
    assert all(outcome.finished for outcome in outcomes)
    assert len(seen) == 20
    assert len(set(seen[:10])) == len(set(seen[10:])) == 1


def test_outcomes_come_back_from_json() -> None:
    outcome = Outcome(
        Trial("one", ("a=1",), {"width": 32, "on": True}), "diverged", "why", curve=(Point(1, 2, 3.0, 4.0),)
    )
    text = json.dumps(outcome.as_json(), allow_nan=False)
    found = Outcome.from_json(json.loads(text))
    assert math.isnan(found.loss)
    assert found.curve == outcome.curve
    assert found.trial == outcome.trial
    assert json.dumps(found.as_json()) == text
