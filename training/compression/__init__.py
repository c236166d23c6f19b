"""Making a trained model smaller and faster: distillation, pruning, quantization, and a table of what they cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def run(config: Mapping[str, Any], report: Callable[[dict[str, Any]], None] = lambda event: None) -> dict[str, Any]:
    """Compress a model, write results.json and model/ into `config["output"]` and return the results: see `job.run`."""
    from training.compression.job import run as compress

    return compress(config, report)


def main(config_path: str) -> int:
    """Compress as a JSON file says, and return the exit code: see `command.main`."""
    from training.compression.command import main as command

    return command(config_path)


# Imported late: an entry point must set the environment before torch loads, and a recipe needs the config alone.
__all__ = ["main", "run"]
