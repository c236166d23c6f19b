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

GRACE_SECONDS = 10.0
_TAIL_LINES = 30


class ProcessFailed(RuntimeError):
    """A child process ended with an error; the message holds the end of its output."""


def training_command(module: str, arguments: Sequence[str], processes: int = 1) -> list[str]:
    """Return the command line that starts a module of `training`: plain Python, or torchrun for several processes."""
    if processes == 1:
        return [sys.executable, "-m", module, *arguments]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [*launcher, "--module", module, *arguments]


def run_process(
    command: Sequence[str],
    on_event: Callable[[dict[str, Any]], None],
    on_line: Callable[[str], None],
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run a command, hand each JSON object line of its output to `on_event` and each other line to `on_line`.

    The child holds the read end of a pipe whose write end only this process has, so it can end itself when this process
    is killed. Any exception here, cancellation included, ends the child and its children first. Raises ProcessFailed
    where the command fails.
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
    try:
        assert process.stdout is not None
        for line in process.stdout:
            event = _parse_event(line)
            if event is None:
                tail.append(line)
                on_line(line.rstrip())
            else:
                on_event(event)
        code = process.wait()
    except BaseException:
        end_process(process)
        raise
    if code != 0:
        reason = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        raise ProcessFailed(f"{' '.join(command[:4])} ... ended with {reason}:\n{''.join(tail).strip()}")


def end_process(process: subprocess.Popen[str]) -> None:
    """Ask a process group to end, and kill it when it does not within the grace period."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(GRACE_SECONDS)
            break
        except subprocess.TimeoutExpired:
            continue


def _parse_event(line: str) -> dict[str, Any] | None:
    if not line.startswith("{"):
        return None
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
