"""Judging finished models by task files: likelihood and generation tasks, CORE, memorisation, text perplexity."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def run(config: Mapping[str, Any], report: Callable[[dict[str, Any]], None] = lambda event: None) -> dict[str, Any]:
    """Judge checkpoints, write results.json into `config["output"]` and return it: see `judging.run`."""
    from training.suites.judging import run as judge

    return judge(config, report)


def main(config_path: str) -> int:
    """Judge as a JSON file says, and return the exit code: see `command.main`."""
    from training.suites.command import main as command

    return command(config_path)


# Imported late: an entry point must set the environment before torch loads.
__all__ = ["main", "run"]
