"""The process that trains one run after another: what it leaves, how it is stopped, how it dies."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows.process import ProcessFailed
from flows.studies.worker import Ending, Worker, Workers
from tests.training.tiny_run import changed, final_weights, losses, make_run, write_config
from training import __main__ as alone_main
from training import trials
from training.config import TrainingRun
from training.run import PATIENCE_SECONDS, sole_owner

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    """One worker for all tests that leave it alive, or have it start anew."""
    one = Worker()
    yield one
    one.close()


def train(worker: Worker, run: TrainingRun, stop_at: int | None = None) -> tuple[Ending, list[dict[str, Any]]]:
    """Have a run trained; `stop_at` is the step of an evaluation at which it is told to stop."""
    Path(run.output_dir).mkdir(parents=True, exist_ok=True)
    config = write_config(run, Path(run.output_dir) / "config.json")
    events: list[dict[str, Any]] = []

    def tell(event: dict[str, Any]) -> None:
        events.append(event)
        if event["event"] == "evaluation" and event["step"] == stop_at:
            worker.stop(config)

    return worker.train(config, tell, lambda line: None), events


def named(events: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [event for event in events if event["event"] == name]


def files_of(run: TrainingRun) -> set[str]:
    folder = Path(run.output_dir)
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def test_one_after_another_as_each_alone(worker: Worker, tmp_path: Path) -> None:
    """A process that has trained other models, and seen some fail, leaves the files of one that has done nothing."""
    other = changed(make_run(tmp_path / "other"), "model", width=48, heads=3)
    assert train(worker, other)[0].state == "finished"
    pid = worker.pid
    diverging = changed(make_run(tmp_path / "diverging"), "optimizer", learning_rate=1e30)
    diverging = changed(diverging, "training", gradient_clip=0.0)
    ending, _ = train(worker, diverging)
    assert ending.state == "diverged"
    assert "became" in ending.message
    refused, _ = train(worker, changed(make_run(tmp_path / "refused"), "training", device_batch_size=3))
    assert refused.state == "refused"
    assert "device_batch_size 3 does not divide" in refused.message
    run = make_run(tmp_path / "run")
    ending, events = train(worker, run)
    assert ending == Ending("finished")
    assert worker.pid == pid
    alone = make_run(tmp_path / "alone")
    Path(alone.output_dir).mkdir()
    config = write_config(alone, Path(alone.output_dir) / "config.json")
    command = [sys.executable, "-m", "training", "train", str(config)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert final_weights(run) == final_weights(alone)
    assert losses(run) == losses(alone)
    assert files_of(run) == files_of(alone)
    # A checkpoint is told of when its thread is done, at whichever step that is.
    assert sorted(event["event"] for event in events) == sorted(event["event"] for event in said)
    # The peak of the memory is that of the run, not that of the largest one before it.
    peaks = [named(found, "finished")[0]["peak_memory_bytes"] for found in (events, said)]
    assert peaks[0] < 1.5 * peaks[1]


def test_stopped_it_goes_on_from_its_checkpoint(worker: Worker, tmp_path: Path) -> None:
    run = make_run(tmp_path / "stopped", steps=40, evaluate_every=2, log_every=1)
    ending, events = train(worker, run, stop_at=2)
    assert ending.state == "stopped"
    step = named(events, "stopped")[0]["step"]
    assert 2 <= step < 40
    ending, events = train(worker, run)
    assert ending.state == "finished"
    assert named(events, "resumed")[0]["step"] == step
    undisturbed = make_run(tmp_path / "undisturbed", steps=40, evaluate_every=2, log_every=1)
    assert train(worker, undisturbed)[0].state == "finished"
    assert final_weights(run) == final_weights(undisturbed)


def test_it_waits_for_what_is_left_of_a_run_that_was_killed(worker: Worker, tmp_path: Path) -> None:
    """The process of a study that was killed goes on until it has written its checkpoint; the next one needs that."""
    run = make_run(tmp_path / "left")
    folder = Path(run.output_dir)
    folder.mkdir(parents=True)
    config, lines = write_config(run, folder / "config.json"), []
    with open(folder / ".lock", "w") as orphan:
        fcntl.flock(orphan, fcntl.LOCK_EX)

        def end_orphan(event: dict[str, Any]) -> None:
            if event.get("reason") == "waiting":
                lines.append(event["message"])
                fcntl.flock(orphan, fcntl.LOCK_UN)

        ending = worker.train(config, end_orphan, lambda line: None)
    assert ending == Ending("finished")
    (line,) = lines
    assert "another process is training in" in line
    assert max(trials._GRACE_SECONDS, alone_main._GRACE_SECONDS) < PATIENCE_SECONDS
    with sole_owner(folder), pytest.raises(ValueError, match="another process is training there"):
        sole_owner(folder, 0.3).__enter__()


def test_a_worker_that_is_taken_is_not_started_by_others() -> None:
    """Two threads that find none running would start two processes, and lose one."""
    workers = Workers(1)
    try:
        with workers.one() as taken:
            workers.start(1)
            assert taken.pid is None
        workers.start(1)
        assert taken.pid is not None
    finally:
        workers.close()


def test_killed_the_next_takes_its_place(worker: Worker, tmp_path: Path) -> None:
    run = make_run(tmp_path / "killed", steps=100_000, log_every=1, checkpoint_every=100_000)
    Path(run.output_dir).mkdir(parents=True)
    config = write_config(run, Path(run.output_dir) / "config.json")

    def kill(event: dict[str, Any]) -> None:
        if event["event"] == "progress":
            assert worker.pid is not None
            os.kill(worker.pid, signal.SIGKILL)

    ending = worker.train(config, kill, lambda line: None)
    assert ending.state == "died"
    assert "SIGKILL" in ending.message


def test_terminated_it_leaves_a_checkpoint(worker: Worker, tmp_path: Path) -> None:
    """As when the study ends: the process is told to end, and what it trains waits for the next one."""
    run = make_run(tmp_path / "terminated", steps=100_000, log_every=1, checkpoint_every=100_000)
    Path(run.output_dir).mkdir(parents=True)
    config = write_config(run, Path(run.output_dir) / "config.json")

    def terminate(event: dict[str, Any]) -> None:
        if event["event"] == "progress" and event["step"] == 3:
            assert worker.pid is not None
            os.kill(worker.pid, signal.SIGTERM)

    ending = worker.train(config, terminate, lambda line: None)
    assert ending.state == "stopped", ending.message
    assert list((Path(run.output_dir) / "checkpoints").glob("step-*/trainer.json"))


def test_the_disk_is_full(worker: Worker, tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))  # the next process inherits it
    try:
        worker.start()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    run = make_run(tmp_path)
    ending, _ = train(worker, run)
    assert ending.state == "full", ending.message
    assert "File too large" in ending.message
    worker.close()
    with pytest.raises(ProcessFailed, match="were ended"):
        train(worker, run)


PARENT = """
import sys
from pathlib import Path
from flows.studies.worker import Worker

worker = Worker()
worker.train(Path(sys.argv[1]), lambda event: print(worker.pid, flush=True), lambda line: None)
"""


def test_it_dies_with_its_parent(tmp_path: Path) -> None:
    run = make_run(tmp_path, steps=1_000_000, log_every=1, checkpoint_every=1_000_000)
    config = write_config(run, tmp_path / "config.json")
    command = [sys.executable, "-c", PARENT, str(config)]
    parent = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert psutil.pid_exists(pid)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 60
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the worker outlives its parent"
        time.sleep(0.05)
