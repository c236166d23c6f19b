"""`python -m training.finetuning CONFIG.json`: fine-tune, and tell of each step as it is done."""

from __future__ import annotations

import sys
from typing import Any

from training.evaluation.command import read_config
from training.events import Reporter
from training.finetuning.finetune import run


def main(config_path: str) -> int:
    """Fine-tune as a JSON file says; return the exit code: 0, or 2 for a wrong configuration or unreadable data."""
    reporter = Reporter()

    def report(event: dict[str, Any]) -> None:
        reporter(**event)

    try:
        run(read_config(config_path), report)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        reporter("error", message=str(error))
        return 2
    return 0
