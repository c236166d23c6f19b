"""The plots of a scaling study."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flows.studies.scaling.results import APPROACHES, Findings
from flows.studies.trial import Outcome
from pipeline.report.markup import Markup
from pipeline.report.plots import Series, plot, short
from training.scaling import Analysis, Run

_PLACES = 60


def compute(findings: Findings) -> Markup:
    """Loss over FLOPs: the runs of each size, Kaplan's L(C), and the held-out run with its forecast."""
    analysis = findings.analysis
    assert analysis is not None
    series: list[Series] = []
    for index, runs in enumerate(_by_size(analysis.runs)):
        x, y = [run.flops for run in runs], [run.loss for run in runs]
        series += [
            Series(
                f"N = {short(runs[0].parameters)}", x, y, kind="points", colour=index, tips=[_tip(run) for run in runs]
            ),
            Series("", x, y, colour=index),
        ]
    series += _curves(findings.outcomes, len(series) // 2)
    held_out = findings.ladder.held_out
    largest = held_out.flops if held_out is not None else max(run.flops for run in analysis.runs)
    if "flops" in analysis.powers:
        budgets = np.geomspace(min(run.flops for run in analysis.runs), largest, _PLACES)
        law = analysis.powers["flops"].loss(budgets)
        series.append(Series("L(C)", budgets.tolist(), law.tolist(), dashed=True, colour=6))
    forecast, measured = findings.forecast, findings.measured
    if forecast is not None and held_out is not None:
        at, tip = [held_out.flops], f"forecast {forecast.loss:.4f} ({forecast.low:.4f} to {forecast.high:.4f})"
        series.append(
            Series("forecast", at, [forecast.loss], [forecast.low], [forecast.high], "points", colour=7, tips=[tip])
        )
        if measured is not None:
            series.append(
                Series("held out", at, [measured], kind="points", colour=0, tips=[f"measured {measured:.4f}"])
            )
    return plot(series, "FLOPs", "held-out loss", log_x=True, log_y=True, title="Loss over compute")


def _curves(outcomes: Sequence[Outcome], colour: int) -> list[Series]:
    """Evaluations within the runs, where the recipe asked for some."""
    return [
        Series(
            "", [point.flops for point in one.curve], [point.loss for point in one.curve], dashed=True, colour=colour
        )
        for one in outcomes
        if one.finished and len(one.curve) > 1
    ]


def slices(analysis: Analysis) -> Markup | None:
    """Loss over size at each budget with its parabola; None where there is no slice."""
    found = analysis.slices()
    if not found:
        return None
    runs = {run.name: run for run in analysis.runs}
    series: list[Series] = []
    for index, valley in enumerate(found):
        part = [runs[name] for name in valley.runs]
        sizes = [run.parameters for run in part]
        line = np.geomspace(min(sizes), max(sizes), _PLACES)
        name = f"C = {short(valley.flops)}"
        series += [
            Series(
                name, sizes, [run.loss for run in part], kind="points", colour=index, tips=[_tip(run) for run in part]
            ),
            Series("", line.tolist(), valley.loss_at(line).tolist(), colour=index),
        ]
    best = [valley for valley in found if not valley.problem]
    if best:
        tips = [f"best at {short(valley.flops)} FLOPs: N = {short(valley.parameters)}" for valley in best]
        lowest = [valley.loss for valley in best]
        series.append(
            Series("lowest", [valley.parameters for valley in best], lowest, kind="points", colour=7, tips=tips)
        )
    return plot(series, "parameters N", "held-out loss", log_x=True, title="IsoFLOP slices")


def tokens(findings: Findings) -> Markup | None:
    """Loss over tokens at each size, with the law that forecasts; None where there is none."""
    analysis = findings.analysis
    assert analysis is not None
    fitted = analysis.forecasters.get(findings.recipe.law)
    if fitted is None:
        return None
    law, drawn = fitted.bootstrap.law, fitted.bootstrap.laws
    series: list[Series] = []
    for index, runs in enumerate(_by_size(analysis.runs)):
        x = [run.tokens for run in runs]
        name = f"N = {short(runs[0].parameters)}"
        series.append(
            Series(name, x, [run.loss for run in runs], kind="points", colour=index, tips=[_tip(run) for run in runs])
        )
        line = np.geomspace(min(x), max(x), _PLACES)
        size = runs[0].parameters
        low, high = np.quantile(
            [one.loss(size, line) for one in drawn], [(1 - analysis.level) / 2, (1 + analysis.level) / 2], axis=0
        )
        series.append(
            Series("", line.tolist(), law.loss(size, line).tolist(), low.tolist(), high.tolist(), colour=index)
        )
    return plot(series, "tokens D", "held-out loss", log_x=True, log_y=True, title="Loss over tokens")


def optimum(findings: Findings) -> Markup | None:
    """Best size over the budget by each approach; None where none could be fitted."""
    analysis = findings.analysis
    assert analysis is not None
    frontiers = analysis.frontiers()
    if not frontiers:
        return None
    budgets = np.geomspace(min(run.flops for run in analysis.runs), max(findings.budgets()), _PLACES).tolist()
    series = [
        Series(
            f"approach {APPROACHES[name]}", budgets, [law.optimum(flops).parameters for flops in budgets], colour=index
        )
        for index, (name, law) in enumerate(frontiers.items())
    ]
    found = [valley for valley in analysis.slices() if not valley.problem]
    if found:
        x, y = [valley.flops for valley in found], [valley.parameters for valley in found]
        series.append(
            Series(
                "lowest of the slices",
                x,
                y,
                kind="points",
                colour=list(frontiers).index("isoflop") if "isoflop" in frontiers else 3,
            )
        )
    return plot(series, "FLOPs", "best N", log_x=True, log_y=True, title="Best size over compute")


def _by_size(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs of each size in the order of their FLOPs, the smallest size first."""
    found: dict[float, list[Run]] = {}
    for run in sorted(runs, key=lambda run: (run.parameters, run.flops)):
        found.setdefault(run.parameters, []).append(run)
    return list(found.values())


def _tip(run: Run) -> str:
    return f"{run.name}: loss {run.loss:.4f}, {short(run.tokens)} tokens, {short(run.flops)} FLOPs"
