"""What a run shows where it was started: bars in a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from flows.progress import Event, format_quantity

_LINE_SECONDS = 5.0
_SHOWN = (
    "read",
    "kept",
    "dropped",
    "edited",
    "rejected",
    "tokens",
    "loss",
    "validation_loss",
    "tokens_per_second",
    "mfu",
    "remaining_seconds",
    "cost",
    "peak_memory_megabytes",
)


class TerminalProgress:
    """Listens to progress events; use as a context manager."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.started = time.monotonic()
        self._lock = threading.Lock()
        self._last_line: dict[str, float] = {}
        self._bars: dict[str, Any] = {}
        self._progress: Progress | None = None
        if console.is_terminal:
            self._progress = Progress(
                SpinnerColumn(finished_text="[green]✓"),
                TextColumn("{task.description:<16}"),
                BarColumn(bar_width=28),
                TimeElapsedColumn(),
                TextColumn("{task.fields[facts]}", style="dim"),
                console=console,
            )

    def __enter__(self) -> TerminalProgress:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        with self._lock:
            if "record" in event:
                return
            if "line" in event:
                self._say(f"{event['stage']}: {event['line']}")
            elif self._progress is not None:
                self._draw(event)
            else:
                self._print(event)

    def _say(self, line: str) -> None:
        self.console.print(line, style="yellow" if self._progress else None, markup=False, highlight=False)

    def _draw(self, event: Event) -> None:
        assert self._progress is not None
        stage = event["stage"]
        if stage not in self._bars:
            self._bars[stage] = self._progress.add_task(stage, total=None, facts="")
        bar = self._bars[stage]
        facts = _facts(event)
        if facts:
            self._progress.update(bar, facts=facts)
        done, total = _position(event)
        if total is not None:
            self._progress.update(bar, total=total, completed=done)
        if event.get("state") in ("committed", "reused"):
            whole = self._progress.tasks[self._progress.task_ids.index(bar)].total or 1
            self._progress.update(bar, total=whole, completed=whole)
            if event["state"] == "reused":
                self._progress.update(bar, facts="done before" + (f": {facts}" if facts else ""))

    def _print(self, event: Event) -> None:
        stage, state, now = event["stage"], event.get("state"), time.monotonic()
        if state is None and now - self._last_line.get(stage, 0.0) < _LINE_SECONDS:
            return
        done, total = _position(event)
        if state is None and total is None:
            return
        self._last_line[stage] = now
        word = {"started": "started", "committed": "done", "reused": "done before"}.get(state or "", "")
        position = f"{done}/{total}" if total is not None and state not in ("committed", "reused") else ""
        parts = [part for part in (word, position, _facts(event)) if part]
        self.console.print(
            f"[{now - self.started:7.1f} s] {stage:<16} {'  '.join(parts)}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def _position(event: Event) -> tuple[int, int | None]:
    if event.get("event") == "progress":
        return int(event.get("step") or 0), event.get("steps")
    return int(event.get("done") or 0), event.get("total")


def _facts(event: Event) -> str:
    facts = [format_quantity(name, event[name]) for name in _SHOWN if event.get(name) is not None]
    if event.get("state") in ("committed", "reused") and event.get("seconds") is not None:
        facts.append(f"{event['seconds']:.1f} s")
    return ", ".join(facts)
