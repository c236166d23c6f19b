"""`python -m training train CONFIG.json`, alone or in each process of torchrun.

Exit codes: 0 finished; 1 training failed (the message says why, the checkpoints stay); 2 the configuration, the data or
the output folder must be changed first; 75 stopped by SIGTERM, after writing a checkpoint; 76 stalled, and told to end
then; 143 ended by SIGTERM before the first step or by a second one. The same command again goes on from the last
checkpoint.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from training.trainer import Trainer

STOPPED = 75  # EX_TEMPFAIL: try again
TERMINATED = 128 + signal.SIGTERM
_GRACE_SECONDS = 60.0


class _Terminator:
    """What SIGTERM does: before there is a trainer it ends the process, then it stops the trainer; twice, both.

    The end of the parent does the same once, however often a signal came: who ends a process often closes its pipe and
    sends a signal as well, and what would count as the second one would end it without a checkpoint.
    """

    def __init__(self) -> None:
        self._trainer: Trainer | None = None
        self._told = False

    def watch(self, trainer: Trainer) -> None:
        self._trainer = trainer
        if self._told:
            trainer.stop()

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        if self._trainer is None or self._told:
            # What is half-written has a hidden name, and the next start removes it.
            sys.exit(TERMINATED)
        self._told = True
        self._trainer.stop()

    def end_with_parent(self) -> None:
        """Read stdin to its end, then end the process: politely, and by force when it is in a long computation."""
        # The descriptor itself: a buffered reader would hold a lock that the interpreter wants when it exits.
        while os.read(0, 4096):
            pass
        if self._trainer is not None:
            self._trainer.stop()
            time.sleep(_GRACE_SECONDS)
        os._exit(TERMINATED)


def main(arguments: Sequence[str] | None = None, terminator: _Terminator | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m training", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train to the end, from the newest checkpoint if there is one")
    train.add_argument("config", help="JSON file of a training.config.TrainingRun")
    train.add_argument("--watch-stdin", action="store_true", help="end when stdin closes, that is when the parent dies")
    options = parser.parse_args(arguments)
    terminator = terminator or _Terminator()
    if options.watch_stdin:
        threading.Thread(target=terminator.end_with_parent, daemon=True).start()
    # How long a waiting OpenMP thread spins before it sleeps; read when torch is loaded. libgomp's 300,000 rounds make
    # a busy machine several times slower, none at all an idle one by half; this few costs little on either.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    return _train(options.config, terminator)


def _train(path: str, terminator: _Terminator) -> int:
    # Imported this late so that the signal handler and the environment are in place before torch loads.
    import torch

    from training.checkpoints import CheckpointError, FormatError
    from training.config import load_run
    from training.events import Reporter
    from training.run import train
    from training.trainer import Stopped

    def fail(code: int, message: str) -> int:
        if not sys.stdout.isatty():
            Reporter()("error", message=message)
        print(f"error: {message}", file=sys.stderr)
        return code

    try:
        train(load_run(path), terminator.watch)
    except Stopped:
        return STOPPED
    except torch.OutOfMemoryError as error:
        return fail(2, f"the device's memory is full; set training.device_batch_size lower or to auto ({error})")
    except (torch.AcceleratorError, torch.distributed.DistError) as error:
        return fail(1, f"a device or a process of the group failed; start the same command again to go on ({error})")
    except FormatError as error:
        return fail(2, str(error))
    except (CheckpointError, FloatingPointError, OSError) as error:
        return fail(1, str(error))
    except ValueError as error:
        return fail(2, str(error))
    return 0


if __name__ == "__main__":
    _terminator = _Terminator()
    signal.signal(signal.SIGTERM, _terminator)
    sys.exit(main(terminator=_terminator))
