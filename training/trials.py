"""`python -m training.trials`: a process that trains one run after another, so that torch is loaded once for all.

Lines of JSON on standard input say what to do: {"train": PATH} trains the run of a config file as `python -m training
train PATH` would, to the same files; {"stop": PATH} has that run stop after the step it is in, with a checkpoint, if it
is the one that is trained; {"score": PATH} writes what held-out documents cost a checkpoint, by a config file of
training.evaluation.documents. Lines of JSON on standard output tell of it: `ready`, the trainer's own events, and at
the end of each run `ended` with its `state`, and with `last` where the process ends after it:

- finished: result.json and the last checkpoint are written;
- stopped: told to, and goes on from its checkpoint when it is asked for again;
- diverged: the loss became no number, or the guard gave up;
- refused: the configuration or the data must be changed first;
- full: the disk took no more;
- failed: anything else. The process ends after it, as it may be damaged.

It ends when standard input does, that is when its parent dies, and on SIGTERM: what it trains stops with a checkpoint
first. Exit codes: 0 told to end; 1 failed; 143 terminated.
"""

from __future__ import annotations

import errno
import gc
import json
import os
import queue
import signal
import sys
import threading
import time
from types import FrameType
from typing import TYPE_CHECKING, Any

from training.events import write_line

if TYPE_CHECKING:
    from training.trainer import Trainer

_GRACE_SECONDS = 60.0
_TERMINATED = 128 + signal.SIGTERM
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


class _Worker:
    """What is trained now, and who wants it to stop."""

    def __init__(self) -> None:
        self.orders: queue.SimpleQueue[tuple[str, str] | None] = queue.SimpleQueue()
        """What to do ("train" or "score") and the path of its config; None at the end."""
        self.terminated = False
        """Told to end, by SIGTERM or by the end of standard input."""
        self._signalled = False
        self._lock = threading.RLock()  # the signal handler may come while it is held
        self._path = ""
        self._trainer: Trainer | None = None
        self._stopped: set[str] = set()

    def begin(self, path: str) -> None:
        """A run begins; its trainer follows."""
        with self._lock:
            self._path, self._trainer = path, None

    def watch(self, trainer: Trainer) -> None:
        """The run's trainer, before its first step."""
        with self._lock:
            self._trainer = trainer
            if self.terminated or self._path in self._stopped:
                trainer.stop()

    def end(self) -> None:
        """The run is over."""
        with self._lock:
            self._stopped.discard(self._path)
            self._path, self._trainer = "", None

    def stop(self, path: str) -> None:
        """Stop the run of a config file, if it is the one."""
        with self._lock:
            if path == self._path:
                self._stopped.add(path)
                if self._trainer is not None:
                    self._trainer.stop()

    def terminate(self, number: int = signal.SIGTERM, frame: FrameType | None = None) -> None:
        """Answer SIGTERM: stop what is trained; end at once where nothing is, or the second time."""
        if self._signalled or self._trainer is None:
            sys.exit(_TERMINATED)
        self.terminated = self._signalled = True
        self._trainer.stop()

    def read(self) -> None:
        """Take orders until standard input ends; then end the process, politely first, by force later."""
        waiting = b""
        # The descriptor itself: a buffered reader would hold a lock that the interpreter wants when it exits.
        while content := os.read(0, 65536):
            *lines, waiting = (waiting + content).split(b"\n")
            for line in lines:
                order: dict[str, Any] = json.loads(line)
                if "stop" in order:
                    self.stop(order["stop"])
                else:
                    self.orders.put(next(iter(order.items())))
        self.orders.put(None)
        # Not by a signal of its own: who ends a process often closes the pipe and sends one as well, and the second
        # signal would end it without a checkpoint.
        with self._lock:
            self.terminated = True
            if self._trainer is not None:
                self._trainer.stop()
        time.sleep(_GRACE_SECONDS)
        os._exit(_TERMINATED)


def main() -> int:
    """Train what is asked for; returns the exit code."""
    worker = _Worker()
    signal.signal(signal.SIGTERM, worker.terminate)
    # As in training.__main__: OpenMP threads that wait spin for a little while only. Read when torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    threading.Thread(target=worker.read, daemon=True, name="orders").start()
    import training.run  # noqa: F401 (loads torch, while the first order may still be on its way)

    _tell("ready", pid=os.getpid())
    while (order := worker.orders.get()) is not None:
        what, path = order
        state, message = _score(path) if what == "score" else _train(path, worker)
        _tell("ended", path=path, state=state, message=message, last=worker.terminated or state == "failed")
        if worker.terminated:
            return _TERMINATED
        if state == "failed":
            return 1
        _clean()
    return 0


def _train(path: str, worker: _Worker) -> tuple[str, str]:
    """Train one run; returns how it ended, and why."""
    from training.config import load_run
    from training.run import train
    from training.trainer import Stopped

    worker.begin(path)
    try:
        train(load_run(path), worker.watch)
    except Stopped as stopped:
        return "stopped", str(stopped)
    except FloatingPointError as error:
        return "diverged", str(error)
    except Exception as error:
        return _verdict(error)
    finally:
        worker.end()
    return "finished", ""


def _score(path: str) -> tuple[str, str]:
    """Write what held-out documents cost a checkpoint; returns how it ended, and why."""
    from training.evaluation.documents import score_documents

    try:
        score_documents(path)
    except Exception as error:
        return _verdict(error)
    return "finished", ""


def _verdict(error: Exception) -> tuple[str, str]:
    """What an error means for the work that it ended."""
    from training.checkpoints import CheckpointError, FormatError

    if any(isinstance(one, OSError) and one.errno in _FULL for one in _causes(error)):
        return "full", str(error)
    if isinstance(error, ValueError) and (isinstance(error, FormatError) or not isinstance(error, CheckpointError)):
        return "refused", str(error)
    return "failed", f"{type(error).__name__}: {error}"


def _causes(error: BaseException) -> list[BaseException]:
    """An error and what led to it."""
    found: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in found:
        found.append(one)
        one = one.__cause__ or one.__context__
    return found


def _clean() -> None:
    """Leave the next run a process like a new one: without the memory, graphs and measures of the last."""
    import torch

    gc.collect()
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()  # a function is compiled a limited number of times, then runs uncompiled
    torch.use_deterministic_algorithms(False)
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # sets the peak of the resident memory back
    except OSError:  # not Linux: the peak is that of all runs so far
        pass


def _tell(event: str, **facts: Any) -> None:
    write_line(json.dumps({"event": event, **facts}, ensure_ascii=False), sys.stdout)


if __name__ == "__main__":
    sys.exit(main())
