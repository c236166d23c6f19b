"""`python -m training train CONFIG.json`, alone or in each process of torchrun.

Exit codes: 0 finished; 1 training failed (the message says why, the checkpoints stay); 2 the configuration, the data or
the output folder must be changed first; 143 ended by SIGTERM. The same command again goes on from the last checkpoint.
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
from typing import NoReturn

TERMINATED = 128 + signal.SIGTERM
_GRACE_SECONDS = 10.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m training", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train to the end, from the newest checkpoint if there is one")
    train.add_argument("config", help="JSON file of a training.config.TrainingRun")
    train.add_argument("--watch-stdin", action="store_true", help="end when stdin closes, that is when the parent dies")
    options = parser.parse_args(arguments)
    if options.watch_stdin:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    # How long a waiting OpenMP thread spins before it sleeps; read when torch is loaded. libgomp's 300,000 rounds make
    # a busy machine several times slower, none at all an idle one by half; this few costs little on either.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    return _train(options.config)


def _train(path: str) -> int:
    # Imported this late so that the signal handler and the environment are in place before torch loads.
    from training.checkpoints import CheckpointError
    from training.config import load_run
    from training.events import Reporter
    from training.run import train

    def fail(code: int, message: str) -> int:
        if not sys.stdout.isatty():
            Reporter()("error", message=message)
        print(f"error: {message}", file=sys.stderr)
        return code

    try:
        train(load_run(path))
    except (CheckpointError, FloatingPointError, OSError) as error:
        return fail(1, str(error))
    except ValueError as error:
        return fail(2, str(error))
    return 0


def _terminate(signum: int, frame: FrameType | None) -> NoReturn:
    """Leave at once: what is half-written has a hidden name, and the next start removes it."""
    sys.exit(TERMINATED)


def _end_with_parent() -> None:
    """Read stdin to its end, then end the process: politely, and by force when it is stuck in a long computation."""
    # The descriptor itself: a buffered reader would hold a lock that the interpreter wants when it exits.
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_SECONDS)
    os._exit(TERMINATED)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(main())
