from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.training.tiny_run import ROOT, make_run, write_config
from training.config.run import GuardConfig
from training.watchdog import STALLED, Watchdog

SCRIPT = """
import ctypes, os, sys, time
from pathlib import Path
from training.events import Reporter
from training.watchdog import Watchdog

def stuck_here():
    {hang}

with Watchdog({minutes}, Path(sys.argv[1]), {ends}, Reporter()) as watchdog:
    for step in range(1, 8):
        watchdog.beat(step)
        time.sleep(0.01)
    stuck_here()
"""
# A call into C that does not come back: without the interpreter lock, as NCCL and CUDA wait; and with it.
WITHOUT_LOCK, WITH_LOCK = "ctypes.CDLL(None).sleep(600)", "ctypes.PyDLL(None).sleep(600)"


@contextlib.contextmanager
def hang(path: Path, hang: str, ends: bool, minutes: float = 0.01) -> Iterator[subprocess.Popen[str]]:
    code = SCRIPT.format(hang=hang, ends=ends, minutes=minutes)
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(path: Path, text: str) -> str:
    deadline = time.monotonic() + 60
    while text not in (content := path.read_text() if path.exists() else ""):
        assert time.monotonic() < deadline, content
        time.sleep(0.02)
    return content


def test_a_hanging_process_leaves_its_stacks_and_ends(tmp_path: Path) -> None:
    path = tmp_path / "output" / "stalls.log"
    with hang(path, WITHOUT_LOCK, ends=True) as process:
        output, error = process.communicate(timeout=20)
    assert process.returncode == STALLED == 76, error
    log = path.read_text()
    assert "after step 7" in log
    assert "stuck_here" in log
    assert "_watch" in log  # all threads
    (event,) = [json.loads(line) for line in output.splitlines()]
    assert (event["event"], event["step"], event["ends"], event["path"]) == ("stalled", 7, True, str(path))


TRAINING = """
import ctypes, sys
import training.run
from training.__main__ import main
from training.callbacks import Callback

class Hang(Callback):
    def on_step_end(self, trainer, row):
        if trainer.step == 3 and trainer.run.training.guard.stall_ends:
            ctypes.CDLL(None).sleep(600)

ours = training.run._callbacks
training.run._callbacks = lambda *arguments: [*ours(*arguments), Hang()]
main(["train", sys.argv[1]])  # the first steps of a process take seconds
sys.exit(main(["train", sys.argv[2]]))
"""


def test_a_training_that_hangs_ends_with_its_code(tmp_path: Path) -> None:
    first = make_run(tmp_path / "first", steps=2)
    run = make_run(tmp_path, guard=GuardConfig(stall_minutes=0.05, stall_ends=True))
    configs = [str(write_config(first, tmp_path / "first.json")), str(write_config(run, tmp_path / "run.json"))]
    command = [sys.executable, "-c", TRAINING, *configs]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == STALLED, done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["event"], last["step"]) == ("stalled", 3)
    assert "on_step_end" in (Path(run.output_dir) / "stalls.log").read_text()


def test_it_may_be_told_to_leave_the_process_alone(tmp_path: Path) -> None:
    path = tmp_path / "stalls.log"
    with hang(path, WITHOUT_LOCK, ends=False) as process:
        wait_for(path, "stuck_here")
        time.sleep(1.5)  # more than another period
        assert process.poll() is None
        process.kill()
        output, _ = process.communicate()
    assert path.read_text().count("no step for") == 1
    assert len(output.splitlines()) == 1


def test_a_hang_that_holds_the_interpreter_lock_is_seen_too(tmp_path: Path) -> None:
    path = tmp_path / "stalls.log"
    with hang(path, WITH_LOCK, ends=True) as process:
        assert process.wait(timeout=20) == 1
    assert "stuck_here" in path.read_text()


def test_a_reader_that_is_gone_stops_neither_the_stacks_nor_the_end(tmp_path: Path) -> None:
    """The run hangs because its full stdout is not read, and so would its report."""
    path = tmp_path / "stalls.log"
    with hang(path, "print('x' * (1 << 22))", ends=True) as process:
        assert process.wait(timeout=20) == STALLED
    assert "stuck_here" in path.read_text()


BURN = """print("burning", flush=True)
    end = time.process_time() + 1.2
    while time.process_time() < end:
        pass"""


def test_a_stopped_process_is_no_stall(tmp_path: Path) -> None:
    """A step of 1.2 s under a limit of 4.8 s, in the middle of which the process is stopped for 5.5 s."""
    with hang(tmp_path / "stalls.log", BURN, False, minutes=0.08) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "burning\n"
        time.sleep(0.9)
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(5.5)
        os.kill(process.pid, signal.SIGCONT)
        output, error = process.communicate(timeout=20)
    assert (process.returncode, output) == (0, ""), error


def test_beats_and_pauses_keep_it_quiet(tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    path = tmp_path / "stalls.log"

    def report(event: str, **facts: Any) -> None:
        told.append({"event": event, **facts})

    with Watchdog(0.005, path, False, report) as watchdog:
        for _ in range(10):
            watchdog.beat(3)
            time.sleep(0.06)
        with watchdog.paused():
            with watchdog.paused():
                time.sleep(0.1)
            time.sleep(0.7)
        assert told == []
        time.sleep(0.7)
        assert [event["step"] for event in told] == [3]
        watchdog.beat(4)
        time.sleep(0.7)
        assert [event["step"] for event in told] == [3, 4]
    assert path.read_text().count("Current thread") == 2
    with Watchdog(0.005, tmp_path / "none.log", False, report):
        pass
    assert not (tmp_path / "none.log").exists()
    with Watchdog(0.0, tmp_path / "off.log", False, report) as watchdog:
        watchdog.beat(1)
        with watchdog.paused():
            pass
    assert [entry.name for entry in tmp_path.iterdir()] == ["stalls.log"]


@pytest.mark.parametrize("twice", [1, 2])
def test_it_can_be_entered_again(tmp_path: Path, twice: int) -> None:
    watchdog = Watchdog(0.005, tmp_path / "stalls.log", False, lambda event, **facts: None)
    for _ in range(twice):
        with watchdog:
            watchdog.beat(1)
    assert not (tmp_path / "stalls.log").exists()
