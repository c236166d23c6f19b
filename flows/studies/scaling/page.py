"""A scaling study in words: its headline and its sections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flows.studies.scaling import charts
from flows.studies.scaling.results import (
    APPROACHES,
    Findings,
    coefficients_table,
    held,
    optima_table,
    runs_table,
)
from pipeline.report.markup import Markup, el, join
from pipeline.report.plots import short
from pipeline.report.study import Page, Section, table
from training.scaling import Forecast


def page_of(findings: Findings) -> Page:
    """The page of a study, whether its laws could be fitted or not."""
    plots: dict[str, Markup] = {}
    sections: list[Section] = []

    def add(name: str, title: str, plot: Markup | None, note: str, *more: Markup) -> None:
        if plot is not None:
            plots[name] = plot
        if plot is not None or more:
            sections.append(Section(title, join([plot, *more]), note))

    if findings.analysis is not None:
        analysis = findings.analysis
        add("loss-over-compute", "Loss over compute", charts.compute(findings), _COMPUTE_NOTE)
        add("isoflop", "IsoFLOP slices", charts.slices(analysis), _SLICES_NOTE)
        add("loss-over-tokens", "Loss over tokens", charts.tokens(findings), _TOKENS_NOTE)
        add("optimum", "Best size", charts.optimum(findings), _OPTIMUM_NOTE, _table(optima_table(findings), 1))
        note = f"Intervals hold {analysis.level:.0%} of the draws of a bootstrap ({findings.recipe.resample})."
        sections.append(Section("Coefficients", _table(coefficients_table(analysis), 2), note))
        if analysis.problems:
            rows = [[name, why] for name, why in analysis.problems.items()]
            sections.append(Section("Not fitted", table(["law", "why"], rows)))
    sections.append(Section("Runs", _table(runs_table(findings), 1, 7), _RUNS_NOTE))
    if findings.ladder.left_out:
        items = [el("li", line) for line in findings.ladder.left_out]
        sections.append(Section("Not in the ladder", el("ul", items), "Runs that the recipe's limits left out."))
    return Page(f"Scaling: {findings.recipe.name}", lines_of(findings), sections, plots)


_COMPUTE_NOTE = (
    "Each line joins the ends of one size's runs; every run has a schedule of its own length, so a loss within a run "
    "is no point of a law. Dashed: Kaplan's L(C) through the runs that none undercuts. The held-out run took no part "
    "in any fit; its bar is the forecast's interval."
)
_SLICES_NOTE = "Runs of one budget each, and the parabola through their losses over the logarithm of the size."
_TOKENS_NOTE = "Points are runs, lines the law that forecasts, at each size."
_OPTIMUM_NOTE = "The size that reaches the lowest loss for a budget, by Chinchilla's three approaches."
_RUNS_NOTE = (
    "Parameters in products are those that tokens are multiplied with: without look-ups in embeddings. Loss: held-out, "
    "nats a token, at the end of the run."
)


def lines_of(findings: Findings) -> list[str]:
    """What the study found, in sentences."""
    lines = [_ladder_line(findings)]
    if findings.problem:
        return [*lines, f"No law: {findings.problem}."]
    lines += [_exponents_line(findings), *_forecast_lines(findings)]
    repeated = [outcome.trial.name for outcome in findings.outcomes if outcome.tokens > 4 * findings.unique_tokens > 0]
    if repeated:
        lines.append(
            f"{', '.join(repeated)} saw the corpus more than four times; from there on repeated tokens are worth less "
            "(Muennighoff et al. 2023), which the laws do not know."
        )
    return [line for line in lines if line]


def _ladder_line(findings: Findings) -> str:
    done = [outcome for outcome in findings.outcomes if outcome.finished]
    sizes = [outcome.parameters for outcome in done] or [0]
    line = (
        f"{len(done)} of {len(findings.outcomes)} runs, {short(min(sizes))} to {short(max(sizes))} parameters, "
        f"{sum(outcome.flops for outcome in done):.3g} FLOPs in {sum(outcome.seconds for outcome in done) / 60:.1f} "
        "minutes of training."
    )
    left_out = findings.analysis.left_out if findings.analysis is not None else {}
    if left_out:
        line += " Left out: " + "; ".join(f"{name} ({why})" for name, why in left_out.items()) + "."
    return line


def _exponents_line(findings: Findings) -> str:
    analysis = findings.analysis
    assert analysis is not None
    told = []
    for name, law in analysis.frontiers().items():
        low, high = analysis.intervals.get(name, {}).get("a", (float("nan"),) * 2)
        told.append(f"{law.parameters_exponent:.2f} ({low:.2f} to {high:.2f}; approach {APPROACHES[name]})")
    if not told:
        return "How the best size grows with compute could not be fitted."
    line = f"The best size grows with compute to the power of {', '.join(told)}."
    optima = findings.optima().get("parametric")
    if optima:
        best = optima[0]
        line += (
            f" For {best.flops:.3g} FLOPs the parametric law takes {short(best.parameters)} parameters on "
            f"{short(best.tokens)} tokens."
        )
    return line


def _forecast_lines(findings: Findings) -> list[str]:
    forecast, outcome, measured = findings.forecast, findings.held_out, findings.measured
    if findings.forecast_problem:
        return [f"No forecast: {findings.forecast_problem}."]
    if forecast is None or outcome is None:
        return []
    when = "on record before the run" if findings.forecast_before else "made when the run was there already"
    line = (
        f"Forecast for {short(forecast.parameters)} parameters on {short(forecast.tokens)} tokens, "
        f"{forecast.extrapolation:.1f} times the largest run fitted: loss {forecast.loss:.4f}, "
        f"{forecast.level:.0%} interval {forecast.low:.4f} to {forecast.high:.4f} ({when})."
    )
    if measured is None:
        return [line, f"The held-out run did not finish ({outcome.state}: {outcome.error}), so nothing tests it."]
    return [line, _verdict(findings, forecast, measured)]


def _verdict(findings: Findings, forecast: Forecast, measured: float) -> str:
    inside = "inside" if forecast.holds(measured) else "outside"
    off = f"{abs(forecast.error(measured)):.2%} {'above' if measured > forecast.loss else 'below'} the forecast"
    verdict = "The forecast held" if held(findings) else "The forecast did not hold"
    allowed = f"{findings.recipe.within:.0%} are allowed"
    return f"{verdict}: measured {measured:.4f}, {inside} the interval and {off} ({allowed})."


def _table(values: Mapping[str, Any], first: int, last: int | None = None) -> Markup:
    """A table whose columns from `first` to `last` are numbers."""
    stop = len(values["columns"]) if last is None else last + 1
    rows = [[_cell(cell) for cell in row] for row in values["rows"]]
    return table(values["columns"], rows, numbers=range(first, stop))


def _cell(value: Any) -> object:
    if value is None:
        return ""
    if isinstance(value, float) and value >= 1e6:
        return f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else value
