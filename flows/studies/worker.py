"""The processes that train the trials: each `python -m training.trials`, kept for one trial after another."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.process import ProcessFailed, end_process, parse_event

_TAIL_LINES = 30


@dataclass(frozen=True)
class Ending:
    """How a training ended: a state of training.trials, or `died` where its process did."""

    state: str
    message: str = ""


class Worker:
    """One process; starts when it is first needed, and anew when it has died. For one thread at a time."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._closed = False
        self._finalizer: Any = None

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the process where none runs; it loads torch while the caller goes on.

        The process holds the read end of a pipe whose write end only this process has: it ends when this one does.
        """
        if self._process is not None and self._process.poll() is None:
            return
        self._tail.clear()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "training.trials"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )
        self._finalizer = weakref.finalize(self, end_process, self._process)

    def train(self, config: Path, on_event: Callable[[dict[str, Any]], None], on_line: Callable[[str], None]) -> Ending:
        """Train the run of a config file to its end, handing on the trainer's events and other lines of output.

        Raises ProcessFailed where no worker starts at all, or after `close`. Any exception in here ends the process.
        """
        return self._follow("train", config, on_event, on_line)

    def score(self, config: Path) -> Ending:
        """Have held-out documents scored by a config file of training.evaluation.documents. Raises as `train` does."""
        return self._follow("score", config, lambda event: None, lambda line: None)

    def _follow(
        self,
        what: str,
        config: Path,
        on_event: Callable[[dict[str, Any]], None],
        on_line: Callable[[str], None],
    ) -> Ending:
        try:
            self._order(**{what: str(config)})
            for event in self._events(on_line):
                if event.get("event") == "ended":
                    if event["last"] and self._process is not None:
                        self._process.wait()  # an order that a process on its way out took would be lost
                    return Ending(event["state"], event["message"])
                if event.get("event") != "ready":
                    on_event(event)
        except BaseException:
            self._end()
            raise
        return Ending("died", self._epitaph())

    def stop(self, config: Path) -> None:
        """Have the training of a config file stop after the step that it is in; for `on_event` to call."""
        with contextlib.suppress(OSError):  # it has died: `train` says so
            self._write(stop=str(config))

    def close(self) -> None:
        """End the process: what it trains writes a checkpoint first. A second call does nothing."""
        self._closed = True
        self._end()

    def _end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            end_process(self._process)
        if self._finalizer is not None:
            self._finalizer.detach()

    def _order(self, **order: str) -> None:
        """Give an order to a process that lives: one that died between two trials is replaced."""
        for _ in range(2):
            if self._closed:
                raise ProcessFailed("the workers of the study were ended")
            self.start()
            try:
                return self._write(**order)
            except OSError:
                assert self._process is not None
                self._process.wait()
        raise ProcessFailed(f"python -m training.trials does not start: {self._epitaph()}")

    def _write(self, **order: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()

    def _events(self, on_line: Callable[[str], None]) -> Iterator[dict[str, Any]]:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            event = parse_event(line)
            if event is None:
                self._tail.append(line)
                on_line(line.rstrip())
            else:
                yield event

    def _epitaph(self) -> str:
        """What a process that has ended leaves to say."""
        assert self._process is not None
        code = self._process.wait()
        reason = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return "\n".join([f"the training process died: {reason}", *(line.rstrip() for line in self._tail)])


class Workers:
    """As many workers as trials at a time."""

    def __init__(self, number: int) -> None:
        self._all = [Worker() for _ in range(number)]
        self._free: queue.LifoQueue[Worker] = queue.LifoQueue()
        for worker in reversed(self._all):
            self._free.put(worker)

    def start(self, number: int) -> None:
        """Start so many processes, so that they load torch in the meantime; fewer where others are at work.

        Each worker is for one thread at a time, so those that are started are taken first.
        """
        taken: list[Worker] = []
        try:
            with contextlib.suppress(queue.Empty):
                while len(taken) < number:
                    taken.append(self._free.get_nowait())
            for worker in taken:
                worker.start()
        finally:
            for worker in reversed(taken):
                self._free.put(worker)

    @contextlib.contextmanager
    def one(self) -> Iterator[Worker]:
        """Have a worker for oneself; waits for a free one."""
        worker = self._free.get()
        try:
            yield worker
        finally:
            self._free.put(worker)

    def close(self) -> None:
        """End them all, at the same time."""
        threads = [threading.Thread(target=worker.close) for worker in self._all]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
