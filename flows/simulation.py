"""`headrace simulate`: what changed thresholds would keep and drop, as people read it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.plan import Plan, make_plan, read_records
from pipeline.signals import SIGNAL_STAGES
from pipeline.simulation import Example, Simulation, simulate

_MEASURED = ("deduplicate", *SIGNAL_STAGES)


def simulate_recipe(recipe: str | None, workspace: str, overrides: Sequence[str], examples: int) -> Simulation:
    """Compare a recipe's filter with the same after `overrides`, on the signals that the workspace holds.

    Without a recipe, that of the workspace's newest run. Raises RecipeError for a wrong setting, ValueError for one
    that changes what is measured, NotCommitted where the signals are not there.
    """
    if recipe is None and not (records := read_records(workspace)):
        raise ValueError(f"{workspace} holds no run; run headrace run first, or name a recipe and another --workspace")
    given = recipe if recipe is not None else records[-1]["given"]
    before = make_plan(given, workspace)
    after = make_plan(given, workspace, overrides)
    for name in _MEASURED:
        if _fingerprint(before, name) != _fingerprint(after, name):
            raise ValueError(
                f"{' '.join(overrides)} changes what the stage {name!r} writes; a simulation changes thresholds, which "
                "stand under `filter`"
            )
    return simulate(before.refs, before.recipe.filter, after.recipe.filter, examples)


def _fingerprint(plan: Plan, name: str) -> str | None:
    return plan.refs[name].fingerprint if name in plan.refs else None


def print_simulation(console: Console, outcome: Simulation, workspace: Path) -> None:
    """Print the totals, the rules whose number of documents changes, the sources and languages, and the examples."""
    before = sum(change.kept_before for change in outcome.changes)
    after = sum(change.kept_after for change in outcome.changes)
    console.print(
        f"[bold]{before:,}[/] of {outcome.documents:,} documents stay now, [bold]{after:,}[/] would: "
        f"{sum(change.newly_dropped for change in outcome.changes):,} more would go, "
        f"{sum(change.newly_kept for change in outcome.changes):,} more would stay. "
        f"No document was measured again, nothing is written.",
        highlight=False,
    )
    console.print(_rules(outcome))
    console.print(_sources(outcome))
    _print_examples(console, "would go", outcome.newly_dropped)
    _print_examples(console, "would stay", outcome.newly_kept)
    if outcome.newly_dropped or outcome.newly_kept:
        option = "" if str(workspace) == "workspace" else f" --workspace {workspace}"
        console.print(f"More of one: headrace explain ID{option}", style="dim", highlight=False)


def _rules(outcome: Simulation) -> Table:
    table = Table(title="Documents that go by each rule", title_justify="left", header_style="bold", box=SIMPLE_HEAD)
    for name in ("rule", "now", "then", "difference"):
        table.add_column(name, justify="left" if name == "rule" else "right")
    for rule in sorted(outcome.rules_before.keys() | outcome.rules_after.keys()):
        now, then = outcome.rules_before.get(rule, 0), outcome.rules_after.get(rule, 0)
        if now != then:
            table.add_row(rule, f"{now:,}", f"{then:,}", f"{then - now:+,}")
    return table


def _sources(outcome: Simulation) -> Table:
    title = "By source and language, where something changes"
    table = Table(title=title, title_justify="left", header_style="bold", box=SIMPLE_HEAD)
    columns = ("all", "stay now", "then", "more go", "more stay", "text then")
    for name in ("source", "language", *columns):
        table.add_column(name, justify="right" if name in columns else "left")
    for change in outcome.changes:
        if change.newly_dropped or change.newly_kept:
            share = change.bytes_after / change.bytes_before if change.bytes_before else float("nan")
            table.add_row(
                change.source,
                change.language,
                *(f"{value:,}" for value in (change.documents, change.kept_before, change.kept_after)),
                *(f"{value:,}" for value in (change.newly_dropped, change.newly_kept)),
                f"{share:.1%}" if change.bytes_before else f"{change.bytes_after:,} bytes",
            )
    return table


def _print_examples(console: Console, what: str, examples: Sequence[Example]) -> None:
    if examples:
        console.print(f"\n[bold]Documents that {what}[/]")
    for example in examples:
        value = "" if example.value is None else f" ({example.value:,.4g} against {example.threshold:,.4g})"
        console.print(
            f"{example.id[:12]}  {example.source}  {example.language}  [yellow]{example.rule}[/]{value}",
            highlight=False,
        )
        console.print("  " + escape(" ".join(example.excerpt.split())), style="dim italic", highlight=False)
