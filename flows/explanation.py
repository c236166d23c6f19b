"""`headrace explain`: everything about one document, as people read it."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

_MARKS = {"kept": "[green]kept[/]", "dropped": "[red]dropped[/]", "edited": "[yellow]edited[/]"}


def print_explanation(console: Console, facts: dict[str, Any]) -> None:
    """Print what `pipeline.catalog.explain` found: origin, decisions, twin with a diff, rules and tokens."""
    document = facts["document"]
    console.print(f"[bold]{document['id']}[/]", highlight=False)
    origin = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name in ("source", "locator", "url", "date", "license", "language", "text_bytes", "metadata"):
        if document.get(name) is not None:
            origin.add_row(f"[dim]{name.replace('_', ' ')}[/]", escape(str(document[name])))
    console.print(origin)
    if document.get("excerpt"):
        console.print(escape(document["excerpt"].strip()[:300]) + "…", style="italic", highlight=False)
    outcome = facts["outcome"]
    verdict = "kept to the end" if outcome["kept"] else f"dropped by {outcome['stage']}, rule {outcome['rule']}"
    console.print(f"\n[bold]Outcome[/]: {verdict}", highlight=False)
    console.print(_decisions(facts["decisions"]))
    _print_duplicate(console, facts)
    if facts["rules"]:
        console.print(_rules(facts["rules"]))
    if facts["edit"]:
        console.print("\n[bold]What was changed in the text[/]")
        _print_diff(console, facts["edit"])
    if facts["tokens"]:
        tokens = facts["tokens"]
        console.print(
            f"\n[bold]Tokens[/]: {tokens['tokens']:,} in the {tokens['split']} split, at offset {tokens['offset']:,} "
            f"of {tokens['path']}",
            highlight=False,
            soft_wrap=True,
        )


def _decisions(decisions: list[dict[str, Any]]) -> Table:
    table = Table(title="Decisions", title_justify="left", header_style="bold")
    for name in ("stage", "decision", "rule", "value", "threshold", "bytes removed", "twin", "detail"):
        table.add_column(name, justify="right" if name in ("value", "threshold", "bytes removed") else "left")
    for row in decisions:
        table.add_row(
            row["stage"],
            _MARKS.get(row["action"], row["action"]),
            row["rule"] or "",
            _number(row["value"]),
            _number(row["threshold"]),
            _number(row["bytes"]),
            (row["twin"] or "")[:12],
            escape(row["detail"] or ""),
        )
    return table


def _rules(rules: list[dict[str, Any]]) -> Table:
    table = Table(title="Every rule of the filter", title_justify="left", header_style="bold")
    names = list(rules[0])
    for name in names:
        table.add_column(name.replace("_", " "))
    for row in rules:
        style = "red" if row["verdict"] == "fail" else None
        table.add_row(*(_cell(row[name]) for name in names), style=style)
    return table


def _print_duplicate(console: Console, facts: dict[str, Any]) -> None:
    duplicate = facts["duplicate"]
    if duplicate:
        measures = [
            f"{label} {duplicate[name]:.3f}"
            for name, label in (
                ("estimated", "estimated similarity"),
                ("similarity", "true similarity"),
                ("containment", "contained in the twin"),
            )
            if duplicate.get(name) is not None
        ]
        console.print(f"\n[bold]Twin[/] {duplicate['twin']}: {', '.join(measures)}", highlight=False, soft_wrap=True)
        _print_diff(console, duplicate["diff"])
    if facts["copies_count"]:
        listed = ", ".join(row["id"][:12] for row in facts["copies"][:5])
        console.print(
            f"\n[bold]{facts['copies_count']} duplicates[/] went because this one stayed: {listed}", highlight=False
        )


def _print_diff(console: Console, diff: str) -> None:
    if not diff:
        console.print("  the texts are the same", style="dim")
    for line in diff.splitlines():
        style = "green" if line.startswith("+") else "red" if line.startswith("-") else "dim"
        console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)


def _number(value: Any) -> str:
    return "" if value is None else f"{value:,.4g}" if isinstance(value, float) else f"{value:,}"


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return _number(value) if isinstance(value, int | float) else escape(str(value)) if value is not None else ""
