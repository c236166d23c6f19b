"""Entry point: `python -m training.evaluation CONFIG.json [--watch-stdin]`."""

from __future__ import annotations

import argparse
import os
import sys
import threading

from training.evaluation.command import main


def _watch_stdin() -> None:
    """End this process when the other end of its standard input goes away."""

    def wait() -> None:
        while os.read(0, 4096):
            pass
        os._exit(3)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m training.evaluation", description=__doc__)
    parser.add_argument("config", help="JSON file: training.evaluation.EvaluationRun")
    parser.add_argument("--watch-stdin", action="store_true", help="end when standard input is closed")
    arguments = parser.parse_args()
    if arguments.watch_stdin:
        _watch_stdin()
    sys.exit(main(arguments.config))
