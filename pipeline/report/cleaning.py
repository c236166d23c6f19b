"""The section on what was cleaned out of documents: personal data, and items of evaluation sets."""

from __future__ import annotations

from pipeline.report.facts import Facts
from pipeline.report.formats import DASH, count
from pipeline.report.markup import Child, Markup, el
from pipeline.report.tables import Cell, Column, section, table

NAMES = {
    "ip_address": "IP address",
    "iban": "IBAN",
    "email": "e-mail address",
}


def cleaning_section(facts: Facts) -> Markup | None:
    """Return what the stages privacy and decontaminate found; None where the run has neither."""
    content: list[Child] = []
    if facts.committed("privacy"):
        content += [el("h3", "Personal data"), _privacy(facts)]
    if facts.committed("decontaminate"):
        content += [el("h3", "Evaluation sets"), _benchmarks(facts)]
    if not content:
        return None
    note = "Counts only: what was found stands nowhere but in the text as it came in."
    return section("cleaning", "Privacy and contamination", note, content)


def _privacy(facts: Facts) -> Markup:
    if not facts.corpus.privacy:
        return el("p", "No document that the filter kept holds any.")
    kinds: dict[str, dict[str, tuple[int, int]]] = {}
    for kind, action, documents, found in facts.corpus.privacy:
        kinds.setdefault(kind, {})[action] = (documents, found)
    rows: list[list[Child]] = []
    for kind, actions in sorted(kinds.items(), key=lambda item: -sum(found for _, found in item[1].values())):
        edited, dropped = actions.get("edited", (0, 0)), actions.get("dropped", (0, 0))
        rows.append(
            [
                NAMES.get(kind, kind.replace("_", " ")),
                Cell(count(edited[1] + dropped[1]), edited[1] + dropped[1]),
                Cell(count(edited[0]), edited[0]),
                Cell(count(dropped[0]), dropped[0]),
            ]
        )
    columns = [
        Column("Kind", "name"),
        Column("Found", "number"),
        Column("Documents masked", "number"),
        Column("Documents dropped", "number", "Documents that hold this kind and went, by this or another kind"),
    ]
    return table(columns, rows)


def _benchmarks(facts: Facts) -> Markup:
    rows: list[list[Child]] = []
    for row in facts.corpus.benchmarks:
        name, rule, action, ngram_words, items, checked, found, documents = row
        unchecked = items - checked
        rows.append(
            [
                name,
                f"{rule}, {action}",
                Cell(count(ngram_words), ngram_words),
                Cell(count(items), items),
                Cell(count(unchecked) if unchecked else DASH, unchecked),
                Cell(count(found) if found else DASH, found),
                Cell(count(documents) if documents else DASH, documents),
            ]
        )
    columns = [
        Column("Set", "name"),
        Column("Rule"),
        Column("n", "number", "Words of an n-gram that makes a match"),
        Column("Items", "number"),
        Column("Unchecked", "number", "Items that are too short to look for: the corpus may hold them"),
        Column("Found", "number", "Items that the corpus held"),
        Column("Documents", "number", "Documents that held one"),
    ]
    return table(columns, rows)
