"""Tables, figures and sections: the parts that a page is set from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.report.markup import Child, Markup, el, join


@dataclass(frozen=True)
class Column:
    """A column: `kind` is text, number (set flush right) or chart (takes the room that is left)."""

    label: str
    kind: str = "text"
    title: str | None = None


@dataclass(frozen=True)
class Cell:
    """A cell with more than text: the value to sort by, a shade of its background from 0 to 1, a tooltip."""

    content: Child
    sort: float | str | None = None
    shade: float | None = None
    tip: str | None = None


def table(
    columns: Sequence[Column], rows: Iterable[Sequence[Child]], sortable: bool = True, caption: str = ""
) -> Markup:
    """Return a table in a frame that scrolls where the page is narrow."""
    head = el("tr", [el("th", el("span", c.label), class_=c.kind, scope="col", title=c.title) for c in columns])
    body = [el("tr", [_cell(c, v) for c, v in zip(columns, row, strict=True)]) for row in rows]
    sorts = "sortable" if sortable and len(body) > 1 else None
    frame = el("div", el("table", el("thead", head), el("tbody", body), class_=sorts), class_="table")
    return join([el("p", caption, class_="caption"), frame]) if caption else frame


def code(name: str) -> Markup:
    """Return a dotted name that may break behind its dots."""
    first, *rest = name.split(".")
    return el("code", first, [[".", el("wbr"), part] for part in rest], class_="rule")


def _cell(column: Column, value: Child) -> Markup:
    if not isinstance(value, Cell):
        return el("td", value, class_=column.kind)
    sort = None if value.sort is None else f"{value.sort:.10g}" if isinstance(value.sort, float) else value.sort
    level = None if value.shade is None else f"shade-{min(8, max(0, round(8 * value.shade)))}"
    return el(
        "td",
        value.content,
        class_=f"{column.kind} {level}" if level else column.kind,
        data_sort=sort,
        data_tip=value.tip,
    )


def section(key: str, title: str, note: Child, *content: Child) -> Markup:
    """Return a section: its title and a note beside it, its content in the wide column."""
    return el(
        "section",
        el("header", el("h2", title), el("p", note, class_="aside") if note else None),
        el("div", content, class_="content"),
        id=key,
    )


def figure(content: Child, caption: Child = "", class_: str | None = None) -> Markup:
    """Return a figure with its caption above, as a title."""
    return el("figure", el("figcaption", caption) if caption else None, content, class_=class_)


def absent(text: str) -> Markup:
    """Return the sentence that stands where there is nothing to show, and says why."""
    return el("p", text, class_="absent")


def corpus_text(text: str, language: str | None = None, tag: str = "span", class_: str | None = None) -> Markup:
    """Return text of the corpus: apart from the direction of the page, and marked with its language for its glyphs."""
    return el(tag, text, dir="auto", lang=language or None, class_=class_)


def key(class_: str, text: str) -> Markup:
    """Return an entry of a legend: a patch of colour and its meaning."""
    return el(
        "span", el("svg", el("rect", width=10, height=10, class_=class_), width=10, height=10), text, class_="key"
    )
