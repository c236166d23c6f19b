"""Trials of a study under a real Prefect server: what comes of each, what is kept, and how it goes on."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from pyarrow.parquet import read_table

from flows.plan import Plan, make_plan
from flows.progress import listening
from flows.recipe import RecipeError
from flows.sending import TrackingPending
from flows.studies.command import closing_lines, summary
from flows.studies.outcomes import Clock, spares_training, unfinished
from flows.studies.recipe import TRIAL_OVERRIDES
from flows.studies.records import StudyFiles, read_studies
from flows.studies.study import Study
from flows.studies.training import _DIVERGED, train_trial
from flows.studies.trial import Outcome, Point, State, Trial
from flows.studies.worker import Ending
from pipeline.catalog import query
from pipeline.report.study import Page
from pipeline.store import StoreError
from tests.flows.conftest import ROOT
from tests.flows.studies.mini import OVERRIDES, rates, run_study, study_recipe
from tests.flows.test_main_job import api, artifacts
from training.callbacks import diverged
from training.callbacks.guard import Guard
from training.callbacks.training_metrics import TrainingMetrics
from training.config.run import GuardConfig

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
    facts = summary(workspace, "scaling", record["fingerprint"])
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
    # Of two studies of a kind, the one that is asked for.
    newest = read_studies(workspace, "scaling")[-1]
    assert [newest["name"], summary(workspace, "scaling", record["fingerprint"])["name"]] == ["second", "mini"]
    with pytest.raises(ValueError, match="with the fingerprint none"):
        summary(workspace, "scaling", "none")
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
        if not seen:
            time.sleep(1.5)
        seen.append(trial.name)
        return False

    recipe = study_recipe(tiny_recipe, concurrency=2, limit="one-device")
    outcomes = run_study(recipe, workspace, rates(0.001, 0.002, steps=40), watch)
    assert all(outcome.finished for outcome in outcomes)
    assert len(seen) == 20
    assert len(set(seen[:10])) == len(set(seen[10:])) == 1
    # While it waits a trial holds no device, and no device hours are counted: both came at the same moment.
    overhead = {outcome.trial.name: outcome.overhead for outcome in outcomes}
    assert overhead[seen[-1]] < overhead[seen[0]] + 1.5


def test_waiting_is_no_overhead(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("flows.studies.outcomes.time.perf_counter", lambda: now[0])

    def pass_seconds(seconds: float) -> None:
        now[0] += seconds

    clock = Clock()
    pass_seconds(1)
    clock.wait()
    clock.wait()
    pass_seconds(100)
    clock.go_on()
    pass_seconds(2)
    clock.wait()
    pass_seconds(200)
    clock.start()  # of several processes the first step says that the waiting is over
    pass_seconds(1000)
    clock.stop()
    pass_seconds(4)
    assert clock.overhead() == 7
    clock.wait()
    pass_seconds(50)
    assert clock.overhead() == 7


class Diverging:
    """Stands for a worker whose training on two GPUs diverges after half an hour."""

    def __init__(self, train: Path) -> None:
        self.journal = train / "work" / "metrics.jsonl"

    def train(self, config: Path, on_event: Callable[[dict[str, Any]], None], on_line: Any) -> Ending:
        facts = {"parameters": 9, "flops_per_token": 1.0, "run_tokens": 100}
        on_event({"event": "start", "device": "cuda:0", "processes": 2, "threads": 1, **facts})
        row = {"step": 2, "tokens": 8, "time": 1800.0, "metrics": {"train/gpu_joules": 7.2e6, "train/cpu_seconds": 0}}
        self.journal.write_text(json.dumps(row) + "\n")
        return Ending("diverged", "the loss became nan by step 3")


def test_a_trial_that_diverged_on_gpus_costs_their_time_and_energy(tiny_recipe: Path, workspace: Path) -> None:
    plan = make_plan(str(tiny_recipe), str(workspace), [*OVERRIDES, "train.training.seed=77", "costs.pue=1.5"])
    ref = plan.refs["train"]
    plan.store.prepare(ref)
    other = plan.store.exclusive(ref)
    other.__enter__()

    def leave(event: Any) -> None:
        """Another process that trains the same lets go of it after half a second."""
        if "waiting for it" in str(event.get("line")):
            time.sleep(0.5)
            other.__exit__(None, None, None)

    worker: Any = Diverging(Path(ref.path))
    clock, began = Clock(), time.perf_counter()
    with listening(leave):
        outcome = train_trial(Trial("one"), plan, worker, clock)
    assert clock.overhead() <= time.perf_counter() - began - 0.5
    assert outcome.state == "diverged"
    assert outcome.cost["device_hours"] == 1.0
    assert outcome.cost["kilowatt_hours"] == pytest.approx(1.5 * 2)


def test_a_training_that_its_guard_gave_up_is_done_again_under_another_guard(tiny_recipe: Path, tmp_path: Path) -> None:
    def plan(*overrides: str) -> Plan:
        return make_plan(str(tiny_recipe), str(tmp_path), overrides)

    trial, strict = Trial("one"), plan()
    states: tuple[State, ...] = ("diverged", "pruned", "failed")
    diverged, pruned, failed = (
        Outcome.from_json(json.loads(json.dumps(unfinished(trial, strict, state, "why").as_json()))) for state in states
    )
    loose = plan("train.training.guard.rollbacks=9")
    assert loose.refs["train"].fingerprint == strict.refs["train"].fingerprint
    assert [spares_training(one, strict) for one in (diverged, pruned, failed)] == [True, True, False]
    assert [spares_training(one, loose) for one in (diverged, pruned, failed)] == [False, True, False]
    assert spares_training(diverged, plan("train.training.guard.stall_minutes=1"))


def test_a_guard_that_gives_up_in_one_of_several_processes_is_a_divergence() -> None:
    guard = Guard(GuardConfig(spike_window=8, rollbacks=0), TrainingMetrics())
    guard._window.extend([2.0] * 8)
    trainer: Any = SimpleNamespace(rollbacks=[])
    given_up = guard._verdict(trainer, 20, 9.0)
    assert isinstance(given_up, FloatingPointError)
    told = f"torchrun ... ended with exit code 1:\n[rank0] error: {given_up}\nmore"
    assert _DIVERGED.search(told)
    assert _DIVERGED.search(f"error: {diverged('loss', math.nan, 7)}")
    went_back = Guard(GuardConfig(spike_window=8), TrainingMetrics())
    went_back._window.extend([2.0] * 8)
    assert not _DIVERGED.search(str(went_back._verdict(trainer, 20, 9.0)))


def test_workers_of_one_study_leave_each_others_rows(tiny_recipe: Path, tmp_path: Path) -> None:
    first, second = (StudyFiles(str(tmp_path), "search", study_recipe(tiny_recipe), "f") for _ in range(2))
    for files, name in ((first, "one"), (second, "two"), (first, "three")):
        files.write_outcome(Outcome(Trial(name), "finished", loss=2.0))
    assert read_table(first.folder / "trials.parquet")["trial"].to_pylist() == ["one", "three", "two"]
    (first.folder / "trials.parquet").unlink()  # as if written by a worker that had seen less
    first.write_results({}, Page("Some", []), [])
    assert read_table(first.folder / "trials.parquet").num_rows == 3


def test_trials_may_end_while_others_begin(tiny_recipe: Path, tmp_path: Path) -> None:
    study = Study("scaling", study_recipe(tiny_recipe), str(tmp_path))
    study.recall(Outcome(Trial(f"trial-{number}"), "finished") for number in range(5000))
    done = threading.Event()

    def end_trials() -> None:
        for number in range(5000, 1_000_000):
            if done.is_set():
                break
            study.recall([Outcome(Trial(f"trial-{number}"), "finished")])

    thread, interval = threading.Thread(target=end_trials), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # the threads take turns within a loop of a few milliseconds
    thread.start()
    try:
        for _ in range(3):
            with pytest.raises(RecipeError, match="learning_rat: unknown key"):
                study.run([Trial("one", ("train.optimizer.learning_rat=1",))])
    finally:
        done.set()
        thread.join()
        sys.setswitchinterval(interval)


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
