"""The page of a search."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from flows.studies.search.recipe import SearchRecipe
from flows.studies.search.results import LEAST_FOR_IMPORTANCE
from flows.studies.search.session import most_trials
from flows.studies.search.space import Choice
from pipeline.report.charts import Part, bar
from pipeline.report.markup import Markup, el, join
from pipeline.report.plots import Series, plot
from pipeline.report.study import Page, Section
from pipeline.report.tables import Cell, Column, code, table

_MOST_CURVES = 200


def page_of(recipe: SearchRecipe, results: Mapping[str, Any], best_yaml: str | None) -> Page:
    """A search for people to read: headline, best settings, history, importance, each setting, trainings, trials."""
    rows = results["history"]
    plots = {"history": _history(rows, results["best_so_far"])}
    sections = [
        *_best(recipe, results, best_yaml),
        Section("History", plots["history"], "The line is the lowest loss so far."),
    ]
    if results["importance"]:
        plots["importance"] = _importance_svg(results["importance"])
        sections.append(Section("Importance", _importance(results["importance"]), _IMPORTANCE_NOTE))
    for key, svg in _by_setting(recipe, rows).items():
        plots[key] = svg
    if shown := [plots[key] for key in recipe.space if key in plots]:
        sections.append(Section("Settings", join([Markup(one) for one in shown]), "The trials by each setting."))
    if any(len(row["curve"]) > 1 for row in rows):
        plots["trainings"] = _curves(rows)
        sections.append(Section("Trainings", plots["trainings"], "Held-out loss while the trials train."))
    sections.append(Section("Trials", _trials(recipe, rows)))
    return Page(f"Search {recipe.name}", lines_of(recipe, results), sections, plots)


_IMPORTANCE_NOTE = (
    "The share of the losses' variance that a setting alone accounts for within the space, by the functional analysis "
    "of variance of a forest (fANOVA, Hutter et al. 2014), of the trials that ran to their end. With few trials it is "
    "a hint."
)


def lines_of(recipe: SearchRecipe, results: Mapping[str, Any]) -> list[str]:
    """What a search found, in a few sentences."""
    states, best = results["states"], results["best"]
    lines = []
    if best is None:
        lines.append("No trial has finished yet, so there are no best settings.")
    else:
        settings = ", ".join(f"{key} {_shown(value)}" for key, value in best["settings"].items())
        lines.append(f"{best['name']} has the lowest held-out loss, {best['loss']:.4f} nats per token: {settings}.")
        if "best_recipe" in results:
            lines.append(f"headrace run {results['best_recipe']} takes these settings.")
    counted = ", ".join(f"{number} {state}" for state, number in states.items() if number)
    most = most_trials(recipe)
    of = f" of {most:,.0f}" if math.isfinite(most) else ""
    lines.append(f"{sum(states.values())}{of} trials: {counted or 'none'}; {results['device_hours']:.3g} device hours.")
    if results["importance"]:
        key, share = max(results["importance"].items(), key=lambda item: item[1])
        lines.append(f"{key} accounts for the most of the differences ({share:.0%}, fANOVA).")
    elif best is not None:
        lines.append(f"Below {LEAST_FOR_IMPORTANCE} different losses nothing is said of the settings' importance.")
    lines += _at_an_edge(recipe, best)
    failed = [row for row in results["history"] if row["state"] in ("failed", "diverged")]
    for row in failed[:5]:
        lines.append(f"{row['name']} {row['state']}: {_first_line(row['error'])}")
    if len(failed) > 5:
        lines.append(f"{len(failed) - 5} more trials failed or diverged; the table names them.")
    return lines


def _at_an_edge(recipe: SearchRecipe, best: Mapping[str, Any] | None) -> list[str]:
    """A word on ranges whose end is the best there is: the best may lie outside."""
    if best is None:
        return []
    found = []
    for key, one in recipe.space.items():
        if isinstance(one, Choice) or key not in best["settings"]:
            continue
        low, high, value = float(one.low), float(one.high), float(best["settings"][key])
        if one.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        place = (value - low) / (high - low)
        if min(place, 1 - place) < 0.03:
            end = "low" if place < 0.5 else "high"
            found.append(f"The best {key} lies at the {end} end of its range: better ones may lie outside.")
    return found


def _best(recipe: SearchRecipe, results: Mapping[str, Any], best_yaml: str | None) -> list[Section]:
    best = results["best"]
    if best is None or best_yaml is None:
        return []
    columns = [Column("setting"), Column("best", "number"), Column("base recipe", "number"), Column("space")]
    rows = [
        [code(key), _shown(best["settings"].get(key)), _shown(results["base_values"][key]), _described(one)]
        for key, one in recipe.space.items()
    ]
    html = join([table(columns, rows), el("pre", best_yaml)])
    return [Section("Best settings", html, "headrace run best.yaml (beside this page) takes them.")]


def _described(one: Any) -> str:
    if isinstance(one, Choice):
        return ", ".join(map(_shown, one.choices))
    step = f", step {one.step:g}" if one.step not in (None, 1) else ""
    return f"{one.low:g} to {one.high:g}{', by the logarithm' if one.log else ''}{step}"


def _history(rows: Sequence[Mapping[str, Any]], best: Sequence[Sequence[float]]) -> Markup:
    series = [Series("best so far", [one[0] for one in best], [one[1] for one in best], colour=0)]
    for colour, state in ((0, "finished"), (1, "pruned"), (2, "diverged")):
        some = [row for row in rows if row["state"] == state and row["loss"] is not None]
        series.append(
            Series(
                state,
                [row["number"] for row in some],
                [row["loss"] for row in some],
                kind="points",
                colour=colour,
                tips=[_tip(row) for row in some],
            )
        )
    return plot([one for one in series if one.x], "trial", "held-out loss, nats per token", title="Loss of the trials")


def _tip(row: Mapping[str, Any]) -> str:
    settings = ", ".join(f"{key.rpartition('.')[2]} {_shown(value)}" for key, value in row["settings"].items())
    return f"{row['name']}: {row['loss']:.4f} ({settings})"


def _importance(shares: Mapping[str, float]) -> Markup:
    columns = [Column("setting"), Column("importance", "number"), Column("share", "chart")]
    ordered = sorted(shares.items(), key=lambda item: -item[1])
    rows = [
        [code(key), Cell(f"{share:.1%}", share), bar([Part(share, "kept", f"{key}: {share:.1%}")], 1.0)]
        for key, share in ordered
    ]
    return table(columns, rows)


def _importance_svg(shares: Mapping[str, float]) -> Markup:
    """The same as one SVG, for MLflow."""
    ordered = sorted(shares.items(), key=lambda item: -item[1])
    shapes = []
    for place, (key, share) in enumerate(ordered):
        top = 10 + 34 * place
        shapes += [
            el("text", f"{key} {share:.1%}", x=10, y=top + 10, class_="direct"),
            el("rect", x=10, y=top + 15, width=max(1.0, 840 * share), height=10, class_="kept"),
        ]
    height = 20 + 34 * len(ordered)
    return el("svg", shapes, viewBox=f"0 0 860 {height}", class_="lines plot", role="img", aria_label="Importance")


def _by_setting(recipe: SearchRecipe, rows: Sequence[Mapping[str, Any]]) -> dict[str, Markup]:
    """The losses over each range; over choices by their place in the recipe."""
    found = {}
    finished = [row for row in rows if row["state"] == "finished" and row["loss"] is not None]
    for key, one in recipe.space.items():
        some = [row for row in finished if key in row["settings"]]
        if len(some) < 2:
            continue
        values = [row["settings"][key] for row in some]
        label, log = key, False
        if isinstance(one, Choice):
            values = [one.choices.index(value) for value in values]
            label = f"{key}: " + ", ".join(f"{place} {_shown(value)}" for place, value in enumerate(one.choices))
        else:
            log = one.log
        points = Series(
            "", values, [row["loss"] for row in some], kind="points", colour=0, tips=[_tip(row) for row in some]
        )
        found[key] = plot([points], label, "held-out loss", log_x=log, height=300, title=f"Loss over {key}")
    return found


def _curves(rows: Sequence[Mapping[str, Any]]) -> Markup:
    series, named = [], set()
    for row in [row for row in rows if len(row["curve"]) > 1][-_MOST_CURVES:]:
        colour = {"finished": 0, "pruned": 1, "diverged": 2}.get(row["state"], 3)
        name = row["state"] if row["state"] not in named else ""
        named.add(row["state"])
        series.append(Series(name, [one[0] for one in row["curve"]], [one[1] for one in row["curve"]], colour=colour))
    return plot(series, "step", "held-out loss, nats per token", title="Held-out loss while the trials train")


def _trials(recipe: SearchRecipe, rows: Sequence[Mapping[str, Any]]) -> Markup:
    settings = [Column(key.rpartition(".")[2], "number", key) for key in recipe.space]
    columns = [
        Column("trial"), Column("state"), Column("loss", "number"), *settings, Column("device hours", "number"),
        Column("note"),
    ]  # fmt: skip
    body = [
        [
            Cell(row["name"], float(row["number"])),
            row["state"],
            Cell("" if row["loss"] is None else f"{row['loss']:.4f}", row["loss"] if row["loss"] is not None else 1e9),
            *(_shown(row["settings"].get(key)) for key in recipe.space),
            Cell(f"{row['device_hours']:.4f}", row["device_hours"]),
            _first_line(row["error"]),
        ]
        for row in rows
    ]
    return table(columns, body)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _first_line(text: str) -> str:
    return text.splitlines()[0] if text else ""
