"""Entry point: `python -m training.evaluation CONFIG.json [--watch-stdin]`."""

from __future__ import annotations

import argparse
import os
import sys
import threading

from training.evaluation import main

TERMINATED = 143


def end_with_parent() -> None:
    """Read standard input to its end, then end the process: nothing half-written has a name that anyone believes."""
    while os.read(0, 4096):
        pass
    os._exit(TERMINATED)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m training.evaluation", description=__doc__)
    parser.add_argument("config", help="JSON file of a training.evaluation.evaluate.EvaluationRun")
    parser.add_argument(
        "--watch-stdin", action="store_true", help="end when stdin closes, that is when the parent dies"
    )
    options = parser.parse_args()
    if options.watch_stdin:
        threading.Thread(target=end_with_parent, daemon=True).start()
    # OpenMP threads that spin while they wait make a busy machine several times slower. Read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(main(options.config))
