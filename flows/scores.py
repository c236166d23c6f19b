"""`headrace scores`: what the models of a workspace reached on tasks, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.catalog import query, refresh_scores
from pipeline.catalog.scores import judged


def read_scores(workspace: Path, task: str | None = None, every_metric: bool = False) -> list[dict[str, Any]]:
    """The rows of the catalog's view `scores`, brought up to date: by default those of the tasks' main metrics.

    A model that was put to a task several times has the row of the most items, of several such the newest. Raises
    ValueError where nothing was judged.
    """
    if not judged(str(workspace.resolve())):
        raise ValueError(f"{workspace} holds no judged model yet; run headrace suite first")
    refresh_scores(workspace.resolve())
    rows = query(workspace, "SELECT * FROM scores").to_pylist()
    ordered = sorted(rows, key=lambda row: row["items"] or 0)
    best = {(row["weights_sha256"], row["task"], row["metric"]): row for row in ordered if every_metric or row["main"]}
    chosen = [row for row in best.values() if task is None or row["task"] == task]
    if not chosen:
        raise ValueError(f"no model was put to {task!r}; tasks are: {', '.join(sorted({row['task'] for row in rows}))}")
    return sorted(chosen, key=lambda row: (row["task"], row["metric"], row["model"], row["step"] or 0))


def print_scores(console: Console, rows: list[dict[str, Any]]) -> None:
    """Print a table with a row for each task and metric, and a column for each model; the best of a row is bold."""
    models = sorted({(row["model"], row["step"] or 0, row["weights_sha256"]) for row in rows})
    cells = {(row["task"], row["metric"], row["weights_sha256"]): row for row in rows}
    table = Table(header_style="bold")
    table.add_column("task")
    table.add_column("metric")
    for model, step, _ in models:
        table.add_column(escape(f"{model}\nstep {step:,}"), justify="right")
    table.add_column("guessing", justify="right", style="dim")
    for task, metric in sorted({(row["task"], row["metric"]) for row in rows}):
        found = [cells.get((task, metric, sha256)) for _, _, sha256 in models]
        known = [row for row in found if row is not None]
        best = (min if _lower_is_better(metric) else max)(row["value"] for row in known)
        shown = [_cell(row, row is not None and len(known) > 1 and row["value"] == best) for row in found]
        baseline = next((row["baseline"] for row in known if row["baseline"] is not None), None)
        table.add_row(escape(task), escape(metric), *shown, "" if baseline is None else f"{baseline:.3f}")
    console.print(table)


def _cell(row: dict[str, Any] | None, best: bool) -> str:
    if row is None:
        return ""
    error = "" if row["standard_error"] is None else f" ± {row['standard_error']:.3f}"
    text = f"{row['value']:.4f}{error}"
    return f"[bold]{text}[/]" if best else text


def _lower_is_better(metric: str) -> bool:
    # Text of the corpus that a model writes on word for word (train/exact_50) is no merit of it.
    memorized = metric.startswith(("train/", "validation/"))
    return memorized or metric.endswith(("perplexity", "bits_per_byte", "loss", "brier", "calibration_error"))
