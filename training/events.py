"""What a training process says on stdout: JSON lines for a program, sentences for a person."""

from __future__ import annotations

import json
import math
import sys
from typing import Any, TextIO


class Reporter:
    """Writes one line for each event; silent in all processes but the main one."""

    def __init__(self, enabled: bool = True, stream: TextIO | None = None) -> None:
        self._enabled = enabled
        self._stream = stream or sys.stdout
        self._for_people = self._stream.isatty()

    def __call__(self, event: str, **facts: Any) -> None:
        """Write `{"event": event, **facts}` as JSON, or a sentence on a terminal."""
        if not self._enabled:
            return
        line = _sentence(event, facts) if self._for_people else json.dumps({"event": event, **plain(facts)})
        print(line, file=self._stream, flush=True)


def plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become their names."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


def _sentence(event: str, facts: dict[str, Any]) -> str:
    match event:
        case "progress":
            return (
                f"step {facts['step']}/{facts['steps']}  loss {facts['loss']:.4f}  "
                f"{facts['tokens_per_second']:,.0f} tokens/s  {facts['remaining_seconds']:.0f} s left"
            )
        case "evaluation":
            metrics = facts["metrics"]
            return "  ".join([f"step {facts['step']}", *(f"{name} {value:.4f}" for name, value in metrics.items())])
        case "warning" | "error":
            return f"{event}: {facts['message']}"
    return "  ".join([event, *(f"{name}: {value}" for name, value in facts.items())])
