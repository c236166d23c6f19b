"""The process of an evaluation or of a job on a finished model: `python -m training.<package> CONFIG.json`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn

from training.events import plain

TERMINATED = 143


def start(package: str, config: str, main: Callable[[str], int]) -> NoReturn:
    """Read the command line of `package`, call `main` with the path of the config and exit with its code.

    `config` says what the JSON file holds. Torch must not have been loaded yet.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {package}")
    parser.add_argument("config", help=f"JSON file: {config}")
    parser.add_argument(
        "--watch-stdin", action="store_true", help="end when stdin closes, that is when the parent dies"
    )
    options = parser.parse_args()
    if options.watch_stdin:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    # As training does: OpenMP threads that wait spin for a little while only. Read when torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    sys.exit(main(options.config))


def follow(run: Callable[[dict[str, Any], Callable[[dict[str, Any]], None]], Any], config_path: str) -> int:
    """Run a job as a JSON file says and tell of it; return the exit code: 0, or 2 for what the user must change."""
    from training.evaluation.command import read_config

    try:
        run(read_config(config_path), tell)
    except (ValueError, OSError) as error:
        tell({"event": "error", "message": str(error)})
        return 2
    return 0


def tell(event: dict[str, Any]) -> None:
    """Print an event: a line of JSON for a program, a sentence in a terminal."""
    line = json.dumps(plain(event), ensure_ascii=False)
    if sys.stdout.isatty():
        facts = (f"{name} {_shown(value)}" for name, value in event.items() if name not in ("event", "metrics"))
        line = f"{event['event']}: {', '.join(facts)}"
    print(line, flush=True)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _end_with_parent() -> None:
    """Read standard input to its end, then end the process: nothing half-written has a name that anyone believes, and
    the same command goes on from what is whole."""
    while os.read(0, 4096):
        pass
    os._exit(TERMINATED)
