"""Plots of studies: where things stand, what is left out, and that the page holds together."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from pipeline.report.markup import el
from pipeline.report.plots import Series, plot, short, standalone
from pipeline.report.study import Page, Section, table


def centres(svg: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)" r="4"', svg)]


def test_a_power_law_is_a_straight_line_over_logarithmic_axes() -> None:
    x = [1e3, 1e4, 1e5, 1e6]
    svg = plot([Series("", x, [value**-0.3 for value in x], kind="points")], "tokens", "loss", True, True)
    (x0, y0), *others = centres(svg)
    slopes = [(y - y0) / (at - x0) for at, y in others]
    assert slopes == pytest.approx([slopes[0]] * 3, rel=1e-3)
    assert slopes[0] > 0  # pixels grow downwards: the loss falls
    assert all(64 <= at <= 846 for at, _ in centres(svg))


def test_what_cannot_be_drawn_is_left_out() -> None:
    svg = plot([Series("runs", [1, 0, 10, 100, 5], [1, 1, math.nan, 2, -1], kind="points")], "x", "y", True, True)
    assert len(centres(svg)) == 3  # two values, and the sign of the legend
    assert "No values." in plot([Series("none", [0], [1])], "x", "y", log_x=True)
    with pytest.raises(ValueError, match="'bad' has sequences of different lengths"):
        plot([Series("bad", [1, 2], [1])], "x", "y")


def test_bands_lines_and_a_legend() -> None:
    series = [
        Series("fit <E>", [1, 2, 3], [3, 2, 1], low=[2.5, 1.5, 0.5], high=[3.5, 2.5, 1.5], dashed=True, colour=1),
        Series("runs", [1, 2, 3], [3.1, 1.9, 1.0], kind="points", colour=1, tips=["one", "two", "three"]),
        Series("single", [2], [2]),
    ]
    svg = plot(series, "rate", "loss", title="a plot")
    root = ElementTree.fromstring(svg)
    words = ["".join(text.itertext()) for text in root.iter("text")]
    assert {"fit <E>", "runs", "single", "rate", "loss"} <= set(words)
    assert svg.count('class="band s1"') == 1
    assert svg.count('class="line s1" stroke-dasharray') == 2
    assert svg.count('class="point s1"') == 4
    assert 'data-tip="two"' in svg
    # The band comes first: nothing lies below it.
    assert svg.index("band s1") < svg.index("point s1")
    alone = standalone(svg)
    assert ElementTree.fromstring(alone).tag == "{http://www.w3.org/2000/svg}svg"
    assert ".line.s1" in alone


def test_numbers_as_axes_write_them() -> None:
    values = (0, 0.05, 3.25, 150, 20_000, 1.5e6, 3e9, 2e12, 1e18, 1e-5)
    assert [short(value) for value in values] == ["0", "0.05", "3.25", "150", "20k", "1.5M", "3B", "2T", "1e18", "1e-5"]


def test_the_page_of_a_study() -> None:
    rows = [["one & only", 1], ["two", 2]]
    page = Page(
        "A <study>", ["Width 64 wins.", "Nothing else."], [Section("Runs", table(["name", "n"], rows, [1]), "How.")]
    )
    html = page.html()
    assert "<h1>A &lt;study&gt;</h1>" in html
    assert html.index("Width 64 wins.") < html.index("Nothing else.") < html.index("one &amp; only")
    assert '<td class="number">2</td>' in html
    assert "http://" not in html.replace("http://www.w3.org", "")
    assert Page("Empty", ["Nothing."], [Section("One", el("p", "<b>"))]).html().count("&lt;b&gt;") == 1
