"""`python -m training.evaluation CONFIG.json`: evaluate, and tell of each part as a line of JSON."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from training.evaluation.evaluate import run


def main(config_path: str) -> int:
    """Evaluate as a JSON file says; return the exit code: 0, or 2 for a wrong configuration or unreadable data."""
    try:
        config = read_config(config_path)
        torch.set_num_threads(int(config.get("threads") or 0) or len(os.sched_getaffinity(0)))
        run(config, report=lambda event: print(json.dumps(event, ensure_ascii=False), flush=True))
    except (ValueError, OSError) as error:
        print(f"evaluation: {error}", file=sys.stderr)
        return 2
    return 0


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
