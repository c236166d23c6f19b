"""What a training that did not come to its end used, from the last line of its journal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_METRICS = ("cpu_seconds", "cpu_joules", "memory_joules", "gpu_joules")
_STARTED = ("device", "processes", "threads")


def journal_facts(line: Mapping[str, Any], start: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Facts as `account` takes them: `line` is one of metrics.jsonl, `start` the trainer's event of that name.

    Without `start` the training is taken for one on a CPU.
    """
    started = {name: start[name] for name in _STARTED if name in start} if start is not None else {}
    metrics = line.get("metrics") or {}
    used = {name: metrics[f"train/{name}"] for name in _METRICS if f"train/{name}" in metrics}
    return {"device": "cpu", **started, "seconds": line.get("time") or 0.0, **used}
