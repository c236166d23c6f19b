"""The page of a study: what it found in a few sentences, then its sections, in the look of a run's report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.report.markup import Markup, el, join
from pipeline.report.page import document


@dataclass(frozen=True)
class Section:
    """A part of the page. `html` is markup already: what `el` and `plot` return, with everything else escaped."""

    title: str
    html: str
    note: str = ""
    """Small print beside it: how to read it."""


@dataclass(frozen=True)
class Page:
    """A study for people to read."""

    title: str
    lines: Sequence[str]
    """The headline: sentences of plain text, the most important first."""
    sections: Sequence[Section] = ()
    plots: Mapping[str, str] = field(default_factory=dict)
    """The SVG plots of the sections by name, as MLflow gets them beside the page."""
    eyebrow: str = "Headrace study"
    footer: str = ""

    def html(self) -> str:
        """Return the whole HTML document; it asks nothing of a network."""
        keys = [(f"section-{index}", section) for index, section in enumerate(self.sections)]
        body = join(
            [
                el(
                    "header",
                    el("p", self.eyebrow, class_="eyebrow"),
                    el("h1", self.title),
                    el("div", [el("p", line) for line in self.lines], class_="story"),
                    el("nav", [el("a", one.title, href=f"#{key}") for key, one in keys], aria_label="Sections"),
                ),
                el("main", [_section(key, one) for key, one in keys]),
                el("footer", el("p", f"{self.footer} This page holds everything it shows.".strip())),
            ]
        )
        return document(self.title, body)


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], numbers: Sequence[int] = ()) -> Markup:
    """Return a table of values that are written as they are; `numbers` are the columns that stand at the right."""
    head = [el("th", name, class_="number" if place in numbers else None) for place, name in enumerate(columns)]
    body = [
        el("tr", [el("td", cell, class_="number" if place in numbers else None) for place, cell in enumerate(row)])
        for row in rows
    ]
    return el("div", el("table", el("thead", el("tr", head)), el("tbody", body)), class_="table")


def _section(key: str, section: Section) -> Markup:
    note = el("p", section.note, class_="aside") if section.note else None
    return el(
        "section",
        el("header", el("h2", section.title), note),
        el("div", Markup(section.html), class_="content"),
        id=key,
    )
