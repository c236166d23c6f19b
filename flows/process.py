"""A training or evaluation process, started and followed by the task that waits for it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# Long enough for a training to write a checkpoint, and for torchrun, which gives its processes 30 s.
GRACE_SECONDS = 45.0
_TAIL_LINES = 30


# Exit codes of `python -m training` after which the same command goes on: stopped by SIGTERM, and stalled.
_GOES_ON = (75, 76)

_running: set[subprocess.Popen[str]] = set()
_ended: set[subprocess.Popen[str]] = set()


class ProcessFailed(RuntimeError):
    """A child process ended with an error; the message holds the end of its output."""


class ProcessStopped(ProcessFailed):
    """A training process was told to stop, or stalled and ended itself; started again, it goes on."""


def training_command(module: str, arguments: Sequence[str], processes: int = 1, restarts: int = 0) -> list[str]:
    """Return the command line that starts a module of `training`: plain Python, or torchrun for several processes.

    torchrun starts all of them anew, `restarts` times at most, when one dies.
    """
    if processes == 1:
        return [sys.executable, "-m", module, *arguments]
    from training.distributed import torchrun_command  # imports torch, which a flow can do without

    return torchrun_command(module, arguments, processes, restarts=restarts)


def run_process(
    command: Sequence[str],
    on_event: Callable[[dict[str, Any]], None],
    on_line: Callable[[str], None],
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run a command, hand each JSON object line of its output to `on_event` and each other line to `on_line`.

    The child holds the read end of a pipe whose write end only this process has, so it can end itself when this process
    is killed. Any exception here, cancellation included, ends the child and its children first. Raises ProcessFailed
    where the command fails, ProcessStopped where it says by its exit code or a last event `stopped` that it can go on.
    """
    process = subprocess.Popen(
        list(command),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
        start_new_session=True,
    )
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    stopped = False
    _running.add(process)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            event = parse_event(line)
            if event is None:
                tail.append(line)
                on_line(line.rstrip())
            else:
                # torchrun has an exit code of its own, so what its processes say counts, too.
                stopped = event.get("event") in ("stopped", "stalled")
                on_event(event)
        code = process.wait()
    except BaseException:
        end_process(process)
        raise
    finally:
        _running.discard(process)
    if code != 0:
        reason = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        goes_on = (stopped or code in _GOES_ON) and process not in _ended
        kind = ProcessStopped if goes_on else ProcessFailed
        raise kind(f"{' '.join(command[:4])} ... ended with {reason}:\n{''.join(tail).strip()}")


def end_running() -> None:
    """End all processes that run now, and have what waits for them raise ProcessFailed: nobody starts them again.

    For a thread that is told to stop while others wait here.
    """
    for process in tuple(_running):
        _ended.add(process)
        end_process(process)


def end_process(process: subprocess.Popen[str]) -> None:
    """Ask a process group to end, and kill it when it does not within the grace period."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        if process.stdin is not None:
            # torchrun's processes lie in groups of their own, but they watch this pipe.
            process.stdin.close()
        try:
            process.wait(GRACE_SECONDS)
            break
        except subprocess.TimeoutExpired:
            continue


def parse_event(line: str) -> dict[str, Any] | None:
    """The event that a line of output is, if it is one."""
    if not line.startswith("{"):
        return None
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
