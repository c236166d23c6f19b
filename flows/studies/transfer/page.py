"""A transfer study in words and plots: loss over learning rate, a line for each size."""

from __future__ import annotations

import math
from collections.abc import Sequence

from flows.studies.transfer.analysis import Transfer
from flows.studies.transfer.recipe import TransferRecipe
from flows.studies.trial import Outcome
from pipeline.report.markup import join
from pipeline.report.plots import Series, plot, short
from pipeline.report.study import Page, Section, table

_NAMES = {"standard": "standard parametrisation", "mup": "muP"}


def page_of(recipe: TransferRecipe, found: Sequence[Transfer], outcomes: Sequence[Outcome]) -> Page:
    """The page of a finished study."""
    swept = next(iter(recipe.rates))
    plots = {f"loss-{one.parametrization}": _sweeps(recipe, one, swept) for one in found}
    sections = [Section(_NAMES[one.parametrization], plots[f"loss-{one.parametrization}"], _note(one)) for one in found]
    plots["optima"] = _optima(recipe, found, swept)
    columns = ["parametrisation", recipe.axis, "best rate", "loss there", "remark"]
    rows = [
        [
            _NAMES[curve.parametrization],
            curve.size,
            *([f"{curve.best.rate:.3g}", f"{curve.best.loss:.4f}"] if curve.best else ["", ""]),
            curve.problem or (f"at the {curve.best.edge} rate of the sweep" if curve.best and curve.best.edge else ""),
        ]
        for one in found
        for curve in one.curves
    ]
    note = "The vertex of a parabola through the best rate and its neighbours, over the logarithm of the rate."
    sections.append(Section("Best rates", join([plots["optima"], table(columns, rows, numbers=(1, 2, 3))]), note))
    excluded = [outcome for outcome in outcomes if not outcome.finished]
    if excluded:
        cells = [[outcome.trial.name, outcome.state, outcome.error] for outcome in excluded]
        sections.append(Section("Left out", table(["trial", "state", "why"], cells)))
    return Page(f"Transfer over {recipe.axis}: {recipe.name}", lines_of(recipe, found, outcomes), sections, plots)


def lines_of(recipe: TransferRecipe, found: Sequence[Transfer], outcomes: Sequence[Outcome]) -> list[str]:
    """What the study found, in sentences."""
    lines = [_sentence(recipe, one) for one in found]
    sure = [one for one in found if one.octaves is not None]
    if len(sure) == 2:
        calm, restless = sorted(sure, key=lambda one: abs(one.octaves or 0.0))
        lines.append(
            f"The best rate moves by {abs(calm.octaves or 0):.2f} octaves a doubling of the {recipe.axis} with "
            f"{_NAMES[calm.parametrization]}, by {abs(restless.octaves or 0):.2f} with "
            f"{_NAMES[restless.parametrization]}."
        )
    excluded = [outcome for outcome in outcomes if not outcome.finished]
    if excluded:
        named = ", ".join(f"{outcome.trial.name} ({outcome.state})" for outcome in excluded[:8])
        more = f" and {len(excluded) - 8} more" if len(excluded) > 8 else ""
        lines.append(f"{len(excluded)} of {len(outcomes)} trials are left out: {named}{more}.")
    return lines


def _sentence(recipe: TransferRecipe, one: Transfer) -> str:
    name, sizes = _NAMES[one.parametrization], sorted(recipe.sizes)
    name = name[0].upper() + name[1:] if one.parametrization == "standard" else name
    first, last = one.curves[0], one.curves[-1]
    if one.taken is None or one.lost is None or first.best is None or last.best is None:
        wanting = next(curve for curve in (first, last) if curve.best is None)
        return f"{name}: no verdict; {recipe.axis} {wanting.size}: {wanting.problem}."
    lost = f"loses {one.lost:.4f} nats per token to the best there" if math.isfinite(one.lost) else "does not finish"
    verdict = {True: "it holds", False: "it does not hold", None: "no verdict; the sweep is too narrow"}[one.held]
    edge = "; an optimum lies at the edge of its sweep, and may be beyond it" if one.at_edge else ""
    return (
        f"{name}: {verdict}. The best rate of {recipe.axis} {sizes[0]}, {short(one.taken)}, taken to {recipe.axis} "
        f"{sizes[-1]}, {lost}; the optimum moves from {first.best.rate:.3g} to {last.best.rate:.3g}{edge}."
    )


def _note(one: Transfer) -> str:
    if one.octaves is None:
        return "Each point is the mean over the seeds."
    return f"Each point is the mean over the seeds. The best rate moves by {one.octaves:+.2f} octaves a doubling."


def _sweeps(recipe: TransferRecipe, one: Transfer, swept: str) -> str:
    series = []
    for colour, curve in enumerate(one.curves):
        kept = [(rate, loss) for rate, loss in zip(curve.rates, curve.losses, strict=True) if math.isfinite(loss)]
        rates, losses = [rate for rate, _ in kept], [loss for _, loss in kept]
        series.append(Series(f"{recipe.axis} {curve.size}", rates, losses, colour=colour % 8))
        series.append(Series("", rates, losses, kind="points", colour=colour % 8))
        if curve.best is not None:
            tip = f"{recipe.axis} {curve.size}: best rate {curve.best.rate:.3g}, loss {curve.best.loss:.4f}"
            best = Series("", [curve.best.rate], [curve.best.loss], kind="points", colour=colour % 8, tips=[tip])
            series.append(best)
    title = f"{_NAMES[one.parametrization]}: loss over learning rate"
    return plot(series, swept, "held-out loss, nats per token", log_x=True, title=title)


def _optima(recipe: TransferRecipe, found: Sequence[Transfer], swept: str) -> str:
    series = []
    for colour, one in enumerate(found):
        known = [(curve.size, curve.best.rate) for curve in one.curves if curve.best is not None]
        sizes, rates = [size for size, _ in known], [rate for _, rate in known]
        series.append(Series(_NAMES[one.parametrization], sizes, rates, colour=colour))
        series.append(Series("", sizes, rates, kind="points", colour=colour))
    title = f"best rate over {recipe.axis}"
    return plot(series, recipe.axis, f"best {swept}", log_x=True, log_y=True, title=title, height=300)
