"""Evaluation of a checkpoint: held-out text by its objective beside models that know less, grammar, tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def run(config: Mapping[str, Any], report: Callable[[dict[str, Any]], None] = lambda event: None) -> dict[str, Any]:
    """Evaluate a checkpoint, write `config["output"]` and return the results: see `evaluate.run` in this package."""
    from training.evaluation.evaluate import run as evaluate

    return evaluate(config, report)


def main(config_path: str) -> int:
    """Evaluate as a JSON file says, and return the exit code: see `command.main`."""
    from training.evaluation.command import main as command

    return command(config_path)


# Imported late: an entry point must set the environment before torch loads.
__all__ = ["main", "run"]
