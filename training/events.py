"""What a training process says on stdout: JSON lines for a program, sentences for a person."""

from __future__ import annotations

import json
import math
import os
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
        write_line(line, self._stream)


def write_line(line: str, stream: TextIO) -> None:
    """Write a line at once. Where nobody reads any more it goes nowhere, and so does all that follows.

    A training whose parent has died then comes as far as its next checkpoint instead of failing over a word of it.
    """
    try:
        print(line, file=stream, flush=True)
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())  # what still waits in the buffer is written there
        os.close(nowhere)


def plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become their names."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def _sentence(event: str, facts: dict[str, Any]) -> str:
    match event:
        case "progress":
            return _progress(facts)
        case "evaluation":
            metrics = facts["metrics"]
            return "  ".join([f"step {facts['step']}", *(f"{name} {value:.4f}" for name, value in metrics.items())])
        case "samples":
            texts = (f"{sample['prompt']}|{sample['continuation']}" for sample in facts["samples"])
            return "\n".join([f"step {facts['step']}  samples", *(f"    {' '.join(text.split())}" for text in texts)])
        case "warning" | "error" | "stalled":
            return f"{event}: {facts['message']}"
        case "rollback":
            return (
                f"step {facts['step']}  back to step {facts['to']}, leaving out {facts['batches']} batches: "
                f"{facts['message']}"
            )
        case "start":
            return (
                f"{facts['parameters']:,} parameters on {facts['device']} in {facts['precision']}, "
                f"{facts['processes']} {'process' if facts['processes'] == 1 else 'processes'}; "
                f"{facts['run_tokens']:,} tokens to train on, of {facts['train_tokens']:,} in the shards"
            )
        case "resumed":
            return f"step {facts['step']}  taken up from {facts['path']}"
        case "checkpoint":
            return f"step {facts['step']}  checkpoint {facts['path']}"
        case "finished":
            loss = facts["metrics"].get("validation/loss")
            judged = "" if loss is None else f", validation loss {loss:.4f}"
            return (
                f"finished {facts['step']:,} steps, {facts['tokens']:,} tokens in {duration(facts['seconds'])}"
                f"{judged}; best checkpoint {facts['best_checkpoint']}"
            )
        case "stopped":
            return f"stopped at step {facts['step']} of {facts['steps']}; the same command goes on from there"
    return "  ".join([event, *(f"{name}: {value}" for name, value in facts.items())])


def _progress(facts: dict[str, Any]) -> str:
    """Step and speed always; the rest where it is known. Waiting for data is worth a word from 1 % of the time on."""
    parts = [f"step {facts['step']}/{facts['steps']}"]
    if "loss" in facts:
        parts.append(f"loss {facts['loss']:.4f}")
    parts.append(f"{facts['tokens_per_second']:,.0f} tokens/s")
    if "mfu" in facts:
        parts.append(f"MFU {facts['mfu']:.1%}")
    if "memory_bytes" in facts:
        parts.append(f"{facts['memory_bytes'] / 1e9:.1f} GB")
    if facts.get("data_wait_share", 0.0) > 0.01:
        parts.append(f"data wait {facts['data_wait_share']:.0%}")
    if facts.get("skipped_steps"):
        parts.append(f"{facts['skipped_steps']:.0f} steps skipped")
    if "cost" in facts:
        parts.append(f"cost {facts['cost']:,.2f}")
    return "  ".join([*parts, f"{duration(facts['remaining_seconds'])} left"])


def duration(seconds: float) -> str:
    """A time as people say it: 42 s, 12 min, 3 h 05 min, 2 d 4 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days} d {hours} h"
