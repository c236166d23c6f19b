"""A clock that a running process keeps setting back; when it stops doing so, it leaves a trace of where it hangs."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

STALLED = 76
"""Exit code of a process that ended because of a stall."""

_REPORT_SECONDS = 5.0


class Watchdog:
    """Writes the stacks of all threads to a file when `beat` was not called for so many minutes; 0 watches for nothing.

    It is on from `__enter__` to `__exit__`, but not inside `paused`. A stall is written once, and reported as the event
    `stalled`; the next beat arms it anew. With `ends` the process then ends at once with the exit code STALLED.

    A thread of its own does this, which works while the main thread hangs in C code, such as a collective operation.
    C code that hangs without releasing the interpreter lock stops that thread too: then faulthandler's timer, which
    needs no lock, writes the stacks (without time and step), and with `ends` the exit code is 1, the only one it knows.

    Time in which the whole process was stopped (SIGSTOP, a frozen container) is no stall for the thread. That timer
    cannot tell, and takes a stop longer than the limit for a hang.
    """

    def __init__(self, minutes: float, path: Path, ends: bool, report: Callable[..., None]) -> None:
        self._limit = 60.0 * minutes
        self._path, self._ends, self._report = path, ends, report
        self._step = 0
        self._beats = 0
        self._pauses = 0
        self._done = threading.Event()
        self._thread: threading.Thread | None = None
        self._file: BinaryIO | None = None

    def __enter__(self) -> Watchdog:
        if self._limit:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # Opened now: a process that hangs may have no way to open a file.
            self._file = self._path.open("ab", buffering=0)
            self._done.clear()
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is None:
            return
        self._done.set()
        self._thread.join()
        self._thread = None
        assert self._file is not None
        self._file.close()
        with contextlib.suppress(OSError):  # another process may have removed it
            if not self._path.stat().st_size:
                self._path.unlink()

    def beat(self, step: int | None = None) -> None:
        """Say that the run goes on, and at which step it is. Costs next to nothing."""
        if step is not None:
            self._step = step
        self._beats += 1

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Do not watch while something runs that may take long and cannot beat. Blocks may nest."""
        self._pauses += 1
        try:
            yield
        finally:
            self.beat()
            self._pauses -= 1

    def _watch(self) -> None:
        interval = min(self._limit / 8, 5.0)
        before, seen, idle, told = time.monotonic(), self._beats, 0.0, False
        self._arm_timer()
        try:
            while not self._done.wait(interval):
                now = time.monotonic()
                # A stopped process wakes up with a jump of the clock, which says nothing of its threads.
                idle += min(now - before, 2 * interval)
                before = now
                if self._pauses or self._beats != seen:
                    seen, idle, told = self._beats, 0.0, False
                if idle >= self._limit and not told:
                    told = True
                    self._stalled(idle)
                self._arm_timer()
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _arm_timer(self) -> None:
        """Have faulthandler act if this thread does not come round again in time."""
        assert self._file is not None
        if self._pauses:
            faulthandler.cancel_dump_traceback_later()
        else:
            faulthandler.dump_traceback_later(self._limit, file=self._file, exit=self._ends)

    def _stalled(self, seconds: float) -> None:
        assert self._file is not None
        faulthandler.cancel_dump_traceback_later()  # reporting may take longer than a short limit
        when = time.strftime("%Y-%m-%d %H:%M:%S%z")
        head = f"{when} process {os.getpid()}: no step for {seconds:.0f} s, after step {self._step}\n"
        self._file.write(head.encode())
        faulthandler.dump_traceback(self._file, all_threads=True)
        self._file.write(b"\n")
        os.fsync(self._file.fileno())
        facts = {"step": self._step, "seconds": round(seconds, 1), "path": str(self._path), "ends": self._ends}
        # In a thread of its own: the run may hang just because nobody reads what it reports.
        reporting = threading.Thread(target=self._tell, args=(facts,), daemon=True)
        reporting.start()
        reporting.join(_REPORT_SECONDS)
        if self._ends:
            os._exit(STALLED)

    def _tell(self, facts: dict[str, Any]) -> None:
        where = f"after step {facts['step']}; the stacks of all threads are in {facts['path']}"
        self._report("stalled", message=f"no step for {facts['seconds']:.0f} s, {where}", **facts)
