"""`python -m training.evaluation CONFIG.json`: evaluate, and tell of each part as it is done."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from training.evaluation.evaluate import run


def main(config_path: str) -> int:
    """Evaluate as a JSON file says; return the exit code: 0, or 2 for a wrong configuration or unreadable data."""
    try:
        run(read_config(config_path), tell)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def tell(event: dict[str, Any]) -> None:
    """Print an event: a line of JSON for a program, a sentence in a terminal."""
    line = json.dumps(event, ensure_ascii=False)
    if sys.stdout.isatty():
        facts = ", ".join(f"{name} {value}" for name, value in event.items() if name not in ("event", "part"))
        line = f"{event['part']}: {facts}"
    print(line, flush=True)


def read_config(path: str | Path) -> dict[str, Any]:
    """Read a JSON object; raises ValueError naming the file where there is none."""
    try:
        config = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path}: expected a JSON object")
    return config
