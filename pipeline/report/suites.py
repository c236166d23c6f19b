"""The section on suites of tasks: the scores of the run's checkpoints, and how they changed over training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.report.charts import Line, Reference, interval, line_chart
from pipeline.report.facts import Facts, TaskScore
from pipeline.report.formats import axis, count, decimal, words
from pipeline.report.markup import Child, Markup, el
from pipeline.report.tables import Cell, Column, figure, section, table

_CHARTS = 24
_SHARE = ("accuracy", "exact_match", "f1", "core", "centered")
"""How the names of metrics begin, or end, that lie between 0 and 1."""


def suites_section(facts: Facts) -> Markup | None:
    """Return the scores on task files of the newest checkpoint that was judged, and small charts over the steps."""
    tasks = _by_task(facts.suites)
    if not tasks:
        return None
    newest = [scores[-1] for scores in tasks.values()]
    steps = sorted({score.step for score in facts.suites})
    judged = f"Checkpoints judged: step {', '.join(count(step) for step in steps[-12:])}."
    note = (
        "Files of tasks, put to the model as they are published. ± is the standard error; the whiskers are 95 % "
        "intervals, the line is what guessing reaches. A set that the corpus was not cleaned of says so."
    )
    remarks = {score.contamination for score in newest if score.items}
    shared = remarks.pop() if len(remarks) == 1 else None
    if shared:
        judged += f" Of each of these sets: {shared}."
    return section("suites", "Suites", note, el("p", judged), _table(newest, shared is None), _charts(tasks))


def _by_task(scores: Sequence[TaskScore]) -> dict[tuple[str, str], list[TaskScore]]:
    """The scores of each task and metric in the order of the steps; of one step the last that was measured."""
    found: dict[tuple[str, str], dict[int, TaskScore]] = {}
    for score in scores:
        found.setdefault((score.task, score.metric), {})[score.step] = score
    return {key: [by_step[step] for step in sorted(by_step)] for key, by_step in sorted(found.items())}


def _table(scores: Sequence[TaskScore], remarks: bool) -> Markup:
    """One row a score; `remarks`: with what is known of contamination."""
    rows: list[list[Child]] = []
    for score in scores:
        error, baseline = score.standard_error, score.baseline
        shown = ""
        if _is_share(score.metric):
            tip = f"{decimal(score.value)} ± {decimal(error)}"
            shown = interval(score.value, error or 0.0, 0.0, 1.0, baseline or 0.0, tip)
        rows.append(
            [
                score.task,
                words(score.metric),
                Cell(el("b", decimal(score.value)), score.value),
                Cell(decimal(error), error),
                Cell(decimal(baseline), baseline),
                Cell(count(score.items), score.items),
                Cell(count(score.step), score.step),
                shown,
                *([score.contamination] if remarks else []),
            ]
        )
    columns = [
        Column("Task", "name"),
        Column("Metric"),
        Column("Score", "number"),
        Column("±", "number"),
        Column("Guessing", "number"),
        Column("Items", "number"),
        Column("Step", "number"),
        Column("", "chart"),
        *([Column("Contamination")] if remarks else []),
    ]
    return table(columns, rows)


def _charts(tasks: Mapping[tuple[str, str], Sequence[TaskScore]]) -> list[Markup] | None:
    """Return a small chart for each task that was put to several checkpoints."""
    charts = []
    for (task, metric), scores in tasks.items():
        if len(scores) < 2:
            continue
        baseline = scores[-1].baseline
        chart = line_chart(
            [Line([(float(score.step), score.value) for score in scores], "validation", marks=True)],
            [] if baseline is None else [Reference(baseline, "")],
            width=270,
            height=130,
            label_width=14,
            y_format=lambda value: decimal(value, 2),
            x_format=axis,
            title=f"{task}, {words(metric)} over steps",
        )
        said = f"{words(metric)} {decimal(scores[0].value)} to {decimal(scores[-1].value)}"
        charts.append(figure(chart, [el("b", task), el("span", said, class_="sub")]))
    if not charts:
        return None
    left_out = len(charts) - _CHARTS
    shown = [el("h3", "Over training"), el("div", charts[:_CHARTS], class_="small-multiples")]
    return [*shown, el("p", f"and {left_out} more")] if left_out > 0 else shown


def _is_share(metric: str) -> bool:
    return metric.startswith(_SHARE) or metric.endswith(_SHARE)
