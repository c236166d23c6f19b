"""`headrace explain`: everything about one document, as people read it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

_MARKS = {"kept": "[green]kept[/]", "dropped": "[red]dropped[/]", "edited": "[yellow]edited[/]"}
_MEASURES = (
    ("estimated", "similarity, estimated by MinHash"),
    ("similarity", "similarity of the shingles (Jaccard)"),
    ("coverage", "words in shingles of the twin"),
    ("containment", "shingles that the twin holds"),
)
_COPIES = 8
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


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
        console.print(escape(_printable(document["excerpt"].strip()[:300])) + "…", style="italic", highlight=False)
    if facts["known"]:
        said = f"a document of an earlier run (ingest {document['ingest']}); the workspace of that run explains it"
        console.print(f"\n[bold]Known[/]: {said}", highlight=False)
    else:
        console.print(f"\n[bold]Outcome[/]: {_outcome(facts['outcome'])}", highlight=False)
        console.print(_decisions(facts["decisions"]))
    if facts["duplicate"]:
        _print_duplicate(console, facts["duplicate"])
    if facts["copies_count"]:
        console.print()
        _print_copies(console, facts["copies"], facts["copies_count"])
    if facts["rules"]:
        console.print(_rules(facts["rules"]))
    for edit in facts["edits"]:
        said = f"\n[bold]What {edit['stage']} changed in the text[/]: {', '.join(edit['rules'])}"
        console.print(said, highlight=False)
        _print_diff(console, edit["diff"], ("went", "came"))
    if facts["tokens"]:
        tokens = facts["tokens"]
        console.print(
            f"\n[bold]Tokens[/]: {tokens['tokens']:,} in the {tokens['split']} split, at offset {tokens['offset']:,} "
            f"of {tokens['path']}",
            highlight=False,
            soft_wrap=True,
        )


def _decisions(decisions: list[dict[str, Any]]) -> Table:
    """The decisions as a table; columns without a value are left out, as a terminal is narrow."""
    table = Table(title="Decisions", title_justify="left", header_style="bold")
    table.add_column("stage", no_wrap=True)
    table.add_column("decision", no_wrap=True)
    columns = {
        "rule": [row["rule"] or "" for row in decisions],
        "value": [_number(row["value"]) for row in decisions],
        "threshold": [_number(row["threshold"]) for row in decisions],
        "bytes removed": [_number(row["bytes"]) for row in decisions],
        "twin": [(row["twin"] or "")[:12] for row in decisions],
        "detail": [escape(row["detail"] or "") for row in decisions],
    }
    told = {name: cells for name, cells in columns.items() if any(cells)}
    for name in told:
        table.add_column(name, justify="right" if name in ("value", "threshold", "bytes removed") else "left")
    for index, row in enumerate(decisions):
        mark = _MARKS.get(row["action"], row["action"])
        table.add_row(row["stage"], mark, *(cells[index] for cells in told.values()))
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


def _outcome(outcome: Mapping[str, Any]) -> str:
    return "kept to the end" if outcome["kept"] else f"dropped by {outcome['stage']}, rule {outcome['rule']}"


def _print_duplicate(console: Console, duplicate: Mapping[str, Any]) -> None:
    """Print why a duplicate went, which document stays in its place and where, how alike they are and what differs."""
    console.print(f"\n[bold]Duplicate[/]: {duplicate['reason']}", highlight=False)
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    where = f"{duplicate['twin_source']} {duplicate['twin_locator']}"
    table.add_row("[dim]twin[/]", duplicate["twin"])
    table.add_row("[dim]where[/]", escape(where))
    if duplicate["twin_url"]:
        table.add_row("[dim]url[/]", escape(duplicate["twin_url"]))
    if duplicate["twin_known"]:
        table.add_row("[dim]known[/]", f"from an earlier run (ingest {duplicate['twin_ingest']})")
    else:
        table.add_row("[dim]outcome[/]", _outcome(duplicate["twin_outcome"]))
    for name, label in _MEASURES:
        if duplicate[name] is not None:
            table.add_row(f"[dim]{label}[/]", f"{duplicate[name]:.3f}")
    console.print(table)
    _print_diff(console, duplicate["diff"], ("only in this one", "only in the twin"))


def _print_copies(console: Console, copies: Sequence[Mapping[str, Any]], count: int) -> None:
    went = "One duplicate went" if count == 1 else f"{count:,} duplicates went"
    table = Table(title=f"{went} because this one stayed", title_justify="left", header_style="bold")
    for name in ("id", "rule", "coverage", "similarity", "where"):
        table.add_column(name, justify="right" if name in ("coverage", "similarity") else "left")
    for row in copies[:_COPIES]:
        measures = (_number(row[name]) for name in ("coverage", "similarity"))
        where = row["url"] or f"{row['source']} {row['locator']}"
        table.add_row(row["id"][:12], row["rule"], *measures, escape(where))
    if count > _COPIES:
        table.add_row(f"and {count - _COPIES:,} more")
    console.print(table)


def _print_diff(console: Console, pieces: Sequence[Mapping[str, Any]], names: tuple[str, str]) -> None:
    """Print the pieces of a diff as one text, in colours and in the brackets of `git diff --word-diff`."""
    if not any(piece["kind"] in ("gone", "new") for piece in pieces):
        same = "the texts have the same words" if pieces else "the texts cannot be read any more"
        console.print(f"  {same}", style="dim", highlight=False)
        return
    shown = Text()
    shown.append(f"[-{names[0]}-]", _STYLES["gone"]).append(" ").append(f"{{+{names[1]}+}}", _STYLES["new"])
    shown.append("\n\n")
    for piece in pieces:
        _append_piece(shown, piece)
    console.print(shown, highlight=False)


_STYLES = {"gone": "red strike", "new": "green", "same": "", "rest": ""}
_BRACKETS = {"gone": ("[-", "-]"), "new": ("{+", "+}"), "same": ("", ""), "rest": ("", "")}
_HIDDEN = {"gone": "more words", "new": "more words", "same": "words the same", "rest": "more words, not shown"}


def _append_piece(shown: Text, piece: Mapping[str, Any]) -> None:
    kind, text = piece["kind"], _printable(piece["text"])
    if not text:
        count = f"{piece['words']:,} " if piece["words"] else ""
        shown.append(f"… {count}{_HIDDEN[kind]} … ", "dim" if kind in ("same", "rest") else f"dim {_STYLES[kind]}")
        return
    begin, end = _BRACKETS[kind]
    words = text.rstrip()
    shown.append(f"{begin}{words}{end}", _STYLES[kind]).append(text[len(words) :])


def _printable(text: str) -> str:
    """Text without the characters that command a terminal."""
    return _CONTROL.sub("\ufffd", text)


def _number(value: Any) -> str:
    return "" if value is None else f"{value:,.4g}" if isinstance(value, float) else f"{value:,}"


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return _number(value) if isinstance(value, int | float) else escape(str(value)) if value is not None else ""
