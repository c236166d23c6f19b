"""Fine-tuning of a checkpoint on tasks that are data: classes, numbers, tags, choices, answers, conversations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def run(config: Mapping[str, Any], report: Callable[[dict[str, Any]], None] = lambda event: None) -> dict[str, Any]:
    """Fine-tune a checkpoint and return the results: see `finetune.run` in this package."""
    from training.finetuning.finetune import run as finetune

    return finetune(config, report)


def main(config_path: str) -> int:
    """Fine-tune as a JSON file says, and return the exit code: see `command.main`."""
    from training.finetuning.command import main as command

    return command(config_path)


# Imported late: an entry point must set the environment before torch loads.
__all__ = ["main", "run"]
