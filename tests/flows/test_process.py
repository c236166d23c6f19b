from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from flows.process import ProcessFailed, ProcessStopped, run_process

ROOT = str(Path(__file__).parents[2])


def test_events_and_lines_are_told_apart():
    events, lines = [], []
    script = "import json; print(json.dumps({'event': 'progress', 'step': 1})); print('plain'); print('{not json')"
    run_process([sys.executable, "-c", script], events.append, lines.append)
    assert events == [{"event": "progress", "step": 1}]
    assert lines == ["plain", "{not json"]


def test_a_failure_shows_the_end_of_the_output():
    with pytest.raises(ProcessFailed, match=r"(?s)exit code 7.*the reason"):
        run_process([sys.executable, "-c", "print('the reason'); raise SystemExit(7)"], print, lambda _: None)
    with pytest.raises(ProcessFailed, match="signal SIGKILL"):
        run_process([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], print, lambda _: None)


@pytest.mark.parametrize(
    "script",
    [
        "raise SystemExit(75)",
        "raise SystemExit(76)",
        "import json; print(json.dumps({'event': 'stopped', 'step': 3})); raise SystemExit(1)",
    ],
)
def test_a_process_that_can_go_on_says_so(script: str):
    with pytest.raises(ProcessStopped):
        run_process([sys.executable, "-c", script], lambda _: None, lambda _: None)


def test_what_was_said_before_the_end_is_no_stop():
    script = "import json; [print(json.dumps({'event': e})) for e in ('stopped', 'resumed')]; raise SystemExit(1)"
    with pytest.raises(ProcessFailed) as failure:
        run_process([sys.executable, "-c", script], lambda _: None, lambda _: None)
    assert not isinstance(failure.value, ProcessStopped)


def test_an_exception_here_ends_the_child_and_its_children(tmp_path: Path):
    script = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open({str(tmp_path / "pid")!r}, "w").write(str(child.pid))
print("{{}}", flush=True)
time.sleep(600)
"""

    class Cancelled(BaseException):
        pass

    def cancel(_: dict) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        run_process([sys.executable, "-c", script], cancel, lambda _: None)
    grandchild = int((tmp_path / "pid").read_text())
    deadline = time.time() + 10
    while time.time() < deadline and _is_running(grandchild):
        time.sleep(0.05)
    assert not _is_running(grandchild)


def test_the_child_learns_of_a_killed_parent(tmp_path: Path):
    child = f"import os, sys; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); sys.stdin.read()"
    parent = f"""
import sys
sys.path.insert(0, {ROOT!r})
from flows.process import run_process
run_process([sys.executable, "-c", {child!r}], print, print)
"""
    process = subprocess.Popen([sys.executable, "-c", parent])
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert process.poll() is None
        time.sleep(0.02)
    pid = int((tmp_path / "pid").read_text())
    threading.Timer(0.1, process.kill).start()
    process.wait()
    deadline = time.time() + 10
    while time.time() < deadline and _is_running(pid):
        time.sleep(0.05)
    assert not _is_running(pid)
    assert os.getpid() != pid


def _is_running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
