"""results.json of a judging: flat numbers for a tracker, tables, and the lines that a person wants to read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from training.suites.judge import Verdict
from training.suites.library import Members, Resolved
from training.suites.measures import Measured
from training.suites.memorization import flat
from training.suites.statistics import centered, combined_error
from training.suites.task import Task

Table = dict[str, Any]


def results(
    verdicts: Sequence[Verdict], tasks: Sequence[Task], resolved: Resolved, contamination: Mapping[str, Any]
) -> dict[str, Any]:
    """The results of judging; the first verdict is that of the model which was asked for.

    kind, checkpoint  "suites"; name, sha256, step, ... of the first
    metrics           <task>/<metric>, <task>/<main metric>_error (bootstrap), <task>/cleaned (1 where the corpus
                      was cleaned of it), <group>/mean or <group>/centered_mean, memorization/...
    tables            tasks, groups (scores over tasks), parts (of a task), calibration, memorization, and where
                      there are several, checkpoints: one row for each, by step
    checkpoints       of each verdict: checkpoint and metrics, by step
    lines             what a person wants to read
    skipped, cut      tasks left out and why; contexts that lost their beginning
    """
    first = verdicts[0]
    tables: dict[str, Table] = {"tasks": _tasks_table(first, tasks, contamination)}
    if resolved.groups:
        tables["groups"] = _groups_table(first, tasks, resolved.groups)
    others = {"parts": _parts(first), "calibration": _calibration(first), "memorization": _memory(first)}
    for name, table in others.items():
        if table["rows"]:
            tables[name] = table
    ordered = sorted(verdicts, key=lambda verdict: _step(verdict))
    if len(verdicts) > 1:
        tables["checkpoints"] = _checkpoints_table(ordered, tasks, resolved.groups)
    return {
        "kind": "suites",
        "checkpoint": first.checkpoint,
        "metrics": metrics(first, tasks, resolved.groups, contamination),
        "tables": tables,
        "checkpoints": [
            {"checkpoint": one.checkpoint, "metrics": metrics(one, tasks, resolved.groups, contamination)}
            for one in ordered
        ],
        "lines": _lines(first, tasks, resolved.groups, contamination),
        "skipped": first.skipped,
        "cut": first.cut,
    }


def metrics(
    verdict: Verdict, tasks: Sequence[Task], groups: Sequence[Members], contamination: Mapping[str, Any]
) -> dict[str, float]:
    """All numbers of a verdict under flat names."""
    found: dict[str, float] = {}
    for task in tasks:
        measured = verdict.tasks.get(task.name)
        if measured is None:
            continue
        found.update({f"{task.name}/{name}": value for name, value in measured.metrics.items()})
        error = measured.errors.get(task.main_metric)
        if error is not None:
            found[f"{task.name}/{task.main_metric}_error"] = error
        mark = contamination.get(task.name) or {}
        if "cleaned" in mark:
            found[f"{task.name}/cleaned"] = float(mark["cleaned"])
    for group in groups:
        score = _group_score(verdict, tasks, group)
        if score is not None:
            found[f"{group.group.name}/{_score_name(group)}"] = score[0]
    return {**found, **flat(verdict.memorized)}


def _main(task: Task, measured: Measured) -> float:
    """The main metric; raises ValueError for one that the task does not have."""
    if task.main_metric not in measured.metrics:
        known = ", ".join(measured.metrics)
        raise ValueError(f"{task.name}: there is no metric {task.main_metric}; a task of its form has {known}")
    return measured.metrics[task.main_metric]


def _baseline(task: Task, measured: Measured) -> float:
    return measured.baseline if task.baseline is None else task.baseline


def _score_name(group: Members) -> str:
    return "centered_mean" if group.group.centered else "mean"


def _group_score(verdict: Verdict, tasks: Sequence[Task], group: Members) -> tuple[float, float | None, int] | None:
    """Score, standard error and number of tasks of a group; None where none of its tasks was done."""
    known = {task.name: task for task in tasks}
    done = [(known[name], verdict.tasks[name]) for name in group.tasks if name in verdict.tasks]
    if not done:
        return None
    values = [_main(task, measured) for task, measured in done]
    factors = [1.0] * len(done)
    if group.group.centered:
        baselines = [_baseline(task, measured) for task, measured in done]
        values = [centered(value, baseline) for value, baseline in zip(values, baselines, strict=True)]
        factors = [1 / (1 - baseline) for baseline in baselines]
    errors = [measured.errors.get(task.main_metric) for task, measured in done]
    return float(np.mean(values)), combined_error(errors, factors), len(done)


def _note(contamination: Mapping[str, Any], name: str) -> str | None:
    mark = contamination.get(name)
    return None if mark is None else str(mark.get("note", mark)) if isinstance(mark, Mapping) else str(mark)


def _tasks_table(verdict: Verdict, tasks: Sequence[Task], contamination: Mapping[str, Any]) -> Table:
    columns = ["task", "metric", "main", "value", "standard_error", "baseline", "centered", "items", "shots"]
    rows = []
    for task in tasks:
        measured = verdict.tasks.get(task.name)
        if measured is None:
            continue
        _main(task, measured)
        for name, value in sorted(measured.metrics.items(), key=lambda entry: entry[0] != task.main_metric):
            main = name == task.main_metric
            baseline = _baseline(task, measured) if name.startswith("accuracy") else None
            share = None if baseline is None else centered(value, baseline)
            row = [task.name, name, main, value, measured.errors.get(name), baseline, share, measured.items, task.shots]
            rows.append([*row, _note(contamination, task.name)])
    return {"columns": [*columns, "contamination"], "rows": rows}


def _groups_table(verdict: Verdict, tasks: Sequence[Task], groups: Sequence[Members]) -> Table:
    rows = []
    for group in groups:
        score = _group_score(verdict, tasks, group)
        if score is not None:
            missing = ", ".join(group.group.missing)
            published = len(group.tasks) + len(group.group.missing)
            rows.append([group.group.name, _score_name(group), score[0], score[1], score[2], published, missing])
    columns = ["group", "metric", "value", "standard_error", "tasks", "tasks_published", "missing"]
    return {"columns": columns, "rows": rows}


def _parts(verdict: Verdict) -> Table:
    rows = [[name, *row] for name, measured in verdict.tasks.items() for row in measured.groups]
    return {"columns": ["task", "part", "metric", "value", "items"], "rows": rows}


def _calibration(verdict: Verdict) -> Table:
    columns = ["task", "lower", "upper", "count", "confidence", "accuracy"]
    rows = [
        [name, *(one[column] for column in columns[1:])]
        for name, measured in verdict.tasks.items()
        for one in measured.bins
        if one["count"]
    ]
    return {"columns": columns, "rows": rows}


def _memory(verdict: Verdict) -> Table:
    columns = ["split", "prefix_tokens", "samples", "exact", "matched_tokens", "longest_match"]
    return {"columns": columns, "rows": [list(one) for one in verdict.memorized]}


def _step(verdict: Verdict) -> tuple[float, str]:
    step = verdict.checkpoint["step"]
    return (math.inf if step is None else float(step), verdict.checkpoint["name"])


def _checkpoints_table(verdicts: Sequence[Verdict], tasks: Sequence[Task], groups: Sequence[Members]) -> Table:
    """A row for each checkpoint: where in its training it stands, and the main metrics."""
    names = [(task.name, f"{task.name}/{task.main_metric}") for task in tasks]
    names += [(group.group.name, f"{group.group.name}/{_score_name(group)}") for group in groups]
    rows = []
    for verdict in verdicts:
        numbers = metrics(verdict, tasks, groups, {})
        known = verdict.checkpoint
        facts = [known["name"], known["step"], known["trained_tokens"], known["sha256"]]
        rows.append([*facts, *(numbers.get(key) for _, key in names)])
    return {"columns": ["checkpoint", "step", "trained_tokens", "sha256", *(key for _, key in names)], "rows": rows}


def _lines(
    verdict: Verdict, tasks: Sequence[Task], groups: Sequence[Members], contamination: Mapping[str, Any]
) -> list[str]:
    lines = []
    for group in groups:
        score = _group_score(verdict, tasks, group)
        if score is not None:
            published = len(group.tasks) + len(group.group.missing)
            missing = f"; missing: {', '.join(group.group.missing)}" if group.group.missing else ""
            name = "centred mean" if group.group.centered else "mean"
            about = f"{group.group.name}: {name} {_figure(*score[:2])} over {score[2]} of {published} tasks"
            lines.append(about + missing)
    for task in tasks:
        measured = verdict.tasks.get(task.name)
        if measured is None:
            lines.append(f"{task.name}: left out: {verdict.skipped[task.name]}")
            continue
        figure = _figure(_main(task, measured), measured.errors.get(task.main_metric))
        guess = _baseline(task, measured)
        facts = [f"{measured.items:,} items", f"{task.shots} shots"] + ([f"guessing {guess:.3g}"] if guess else [])
        dirty = (contamination.get(task.name) or {}).get("cleaned") is False
        note = "; the corpus was not cleaned of it" if dirty else ""
        lines.append(f"{task.name}: {task.main_metric} {figure} ({', '.join(facts)}){note}")
    for one in verdict.memorized:
        lines.append(
            f"memorization, {one.split}, {one.prefix_tokens} tokens given: {one.exact:.2%} of {one.samples:,} "
            f"stretches word for word, {one.matched:.1f} tokens on average, at most {one.longest}"
        )
    return lines


def _figure(value: float, error: float | None) -> str:
    return f"{value:.4f}" if error is None else f"{value:.4f} ± {error:.4f}"
