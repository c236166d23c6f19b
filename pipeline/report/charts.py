"""Charts as inline SVG: bars and intervals for table rows, histograms, lines. Colours come from the page's style."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.report.formats import axis, plain
from pipeline.report.markup import Markup, el
from pipeline.report.scales import Scale, log_ticks, spread, thin, ticks

Point = tuple[float, float]


@dataclass(frozen=True)
class Part:
    """A part of a bar; `class_` names its colour."""

    value: float
    class_: str
    tip: str = ""


def bar(parts: Sequence[Part], whole: float, marks: Sequence[Part] = (), height: int = 12) -> Markup:
    """Return a stacked bar as wide as its place, of which `whole` is the full width, with marks to compare it to."""
    shapes, left = [], 0.0
    for part in parts:
        share = 100 * part.value / whole if whole else 0.0
        if share > 0:
            shapes.append(
                el(
                    "rect",
                    x=f"{left:.2f}%",
                    y=1,
                    width=f"{max(share, 0.15):.2f}%",
                    height=height - 2,
                    class_=part.class_,
                    data_tip=part.tip or None,
                )
            )
        left += share
    for mark in marks:
        at = f"{min(100.0, 100 * mark.value / whole) if whole else 0.0:.2f}%"
        shapes.append(el("line", x1=at, x2=at, y1=-1, y2=height + 1, class_=mark.class_, data_tip=mark.tip or None))
    return el("svg", shapes, class_="bar", height=height, aria_hidden="true")


def interval(value: float, error: float, low: float, high: float, reference: float, tip: str) -> Markup:
    """Return a dot with its 95 % interval on a scale from low to high, and a line at the reference."""
    scale = Scale(low, high, 3, 97)
    margin = 1.96 * error
    return el(
        "svg",
        el("line", x1="0%", x2="100%", y1=10, y2=10, class_="rail"),
        el("line", x1=f"{scale(reference):.2f}%", x2=f"{scale(reference):.2f}%", y1=0, y2=20, class_="threshold"),
        el(
            "line",
            x1=f"{scale(value - margin):.2f}%",
            x2=f"{scale(value + margin):.2f}%",
            y1=10,
            y2=10,
            class_="whisker",
        ),
        el("circle", cx=f"{scale(value):.2f}%", cy=10, r=4.5, class_="dot"),
        class_="bar interval",
        height=20,
        data_tip=tip,
    )


def timeline(start: float, length: float, whole: float, tip: str) -> Markup:
    """Return a bar that shows when something ran, on an axis of `whole` seconds."""
    return el(
        "svg",
        el("line", x1="0%", x2="100%", y1=6, y2=6, class_="rail"),
        el(
            "rect",
            x=f"{100 * start / whole if whole else 0:.2f}%",
            y=1,
            width=f"{max(100 * length / whole if whole else 0, 0.4):.2f}%",
            height=10,
            class_="kept",
        ),
        class_="bar",
        height=12,
        data_tip=tip,
    )


@dataclass(frozen=True)
class Threshold:
    """A limit on a value: `least` keeps what is not below it, otherwise what is not above it.

    `at` is where the line stands: for whole numbers an upper limit lies behind the bin of its value. `aside` is for a
    limit that holds for some documents only; `label` says for which.
    """

    value: float
    least: bool
    at: float
    label: str = ""
    aside: bool = False


@dataclass(frozen=True)
class Histogram:
    """Counts in bins that hold their lower edge; of each bin `failing` documents break a limit."""

    edges: Sequence[float]
    counts: Sequence[int]
    failing: Sequence[int]
    thresholds: Sequence[Threshold] = ()
    log: bool = False
    whole: bool = False


def histogram(data: Histogram, title: str, width: float = 270, height: float = 124) -> Markup:
    """Return a histogram: heights by the square root, the failing share of a bar in another colour, limits as lines."""
    left, right, top, bottom = 2.0, width - 2.0, 20.0, height - 20.0
    x = Scale(data.edges[0], data.edges[-1], left, right, data.log)
    y = Scale(0, math.sqrt(max([*data.counts, 1])), bottom, top)
    shapes = []
    for index, (low, high) in enumerate(zip(data.edges, data.edges[1:], strict=False)):
        number, failing = data.counts[index], data.failing[index]
        if not number:
            continue
        place = {"x": x(low) + 0.5, "width": max(x(high) - x(low) - 1, 0.8), "data_tip": _bin_tip(data, index)}
        height_in_all = max(bottom - y(math.sqrt(number)), 1.2)
        shapes.append(el("rect", y=bottom - height_in_all, height=height_in_all, class_="kept", **place))
        if failing:
            part = max(height_in_all * failing / number, 1.2)
            shapes.append(el("rect", y=bottom - part, height=part, class_="gone", **place))
    shapes.append(el("line", x1=left, x2=right, y1=bottom + 0.5, y2=bottom + 0.5, class_="axis"))
    marks = log_ticks(data.edges[0], data.edges[-1]) if data.log else ticks(data.edges[0], data.edges[-1], 4)
    for mark in [mark for mark in marks if not data.whole or mark == int(mark)]:
        at = x(mark + 0.5) if data.whole and not data.log else x(mark)  # a bin of one number has it in its middle
        anchor = "start" if at < 14 else "end" if at > width - 14 else "middle"
        shapes.append(el("line", x1=at, x2=at, y1=bottom, y2=bottom + 4, class_="axis"))
        shapes.append(el("text", axis(mark), x=at, y=bottom + 16, class_="tick", text_anchor=anchor))
    for threshold in data.thresholds:
        if data.edges[0] <= threshold.at <= data.edges[-1]:
            shapes += _threshold(threshold, x(threshold.at), bottom, width)
    return el("svg", shapes, viewBox=f"0 0 {width:g} {height:g}", class_="histogram", role="img", aria_label=title)


def _threshold(threshold: Threshold, at: float, bottom: float, width: float) -> list[Markup]:
    aside = " other" if threshold.aside else ""
    line = el(
        "line",
        x1=at,
        x2=at,
        y1=6.0 if not aside else 18.0,
        y2=bottom,
        class_=f"threshold{aside}",
        data_tip=threshold.label,
    )
    if threshold.aside:
        return [line]
    # The label stands on the side that is kept, unless there is no room for it.
    text = ("≥ " if threshold.least else "≤ ") + plain(threshold.value)
    after = threshold.least if 44 < at < width - 44 else at <= 44
    anchor, shift = ("start", 5) if after else ("end", -5)
    return [line, el("text", text, x=at + shift, y=14, class_="limit", text_anchor=anchor)]


def _bin_tip(data: Histogram, index: int) -> str:
    low, high = data.edges[index], data.edges[index + 1]
    last = index == len(data.counts) - 1
    if data.whole:
        span = plain(low) if high - low <= 1 else f"{plain(low)} to {plain(high - 1)}"
    else:
        span = f"{plain(low)} to {plain(high)}"
    span = f"{plain(low)} and more" if last and not data.whole else span
    failing = f", {data.failing[index]:,} of them outside the limits" if data.failing[index] else ""
    return f"{span}: {data.counts[index]:,} documents{failing}"


@dataclass(frozen=True)
class Line:
    """A series; where `label` is given it stands at its end. `marks` draws its points as dots."""

    points: Sequence[Point]
    class_: str
    label: str = ""
    marks: bool = False


@dataclass(frozen=True)
class Reference:
    """A horizontal line with its label at the right end."""

    value: float
    label: str
    class_: str = "reference"


def line_chart(
    lines: Sequence[Line],
    references: Sequence[Reference] = (),
    *,
    width: float = 860,
    height: float = 340,
    label_width: float = 150,
    x_format: Callable[[float], str] = axis,
    y_format: Callable[[float], str] = plain,
    x_label: str = "",
    low: float | None = None,
    high: float | None = None,
    class_: str = "",
    title: str = "line chart",
) -> Markup:
    """Return lines over one x axis, with direct labels at the right; values above `high` are held at the top."""
    values = [y for line in lines for _, y in line.points] + [reference.value for reference in references]
    xs = [x for line in lines for x, _ in line.points]
    if not values or not xs:
        return el("p", "No values.", class_="absent")
    y_low = min(values) if low is None else low
    y_high = max(values) if high is None else high
    if y_high <= y_low:
        y_high = y_low + (abs(y_low) or 1.0) * 0.1
    left, right, top, bottom = 44.0, width - label_width, 10.0, height - 30.0
    x = Scale(min(xs), max(xs), left, right)
    y = Scale(y_low, y_high, bottom, top)
    shapes: list[Markup] = []
    for mark in ticks(y_low, y_high, max(2, int(height / 60))):
        shapes += [
            el("line", x1=left, x2=right, y1=y(mark), y2=y(mark), class_="grid"),
            el("text", y_format(mark), x=left - 8, y=y(mark) + 4, class_="tick", text_anchor="end"),
        ]
    for mark in ticks(min(xs), max(xs), max(3, int((right - left) / 110))):
        shapes.append(el("text", x_format(mark), x=x(mark), y=bottom + 18, class_="tick", text_anchor="middle"))
    shapes.append(el("line", x1=left, x2=right, y1=bottom, y2=bottom, class_="axis"))
    if x_label:
        shapes.append(el("text", x_label, x=left - 8, y=bottom + 18, class_="tick", text_anchor="end"))
    labels: list[tuple[float, str, str]] = []
    for reference in references:
        at = y(reference.value)
        shapes.append(el("line", x1=left, x2=right, y1=at, y2=at, class_=reference.class_))
        labels.append((at, reference.label, reference.class_))
    for line in lines:
        points = thin(line.points, 700)
        shapes.append(el("path", d=_path([(x(px), y(py)) for px, py in points]), class_=f"line {line.class_}"))
        if line.marks:
            shapes += [
                el(
                    "circle",
                    cx=x(px),
                    cy=y(py),
                    r=3,
                    class_=f"mark {line.class_}",
                    data_tip=_point_tip(line, px, py, x_format),
                )
                for px, py in points
            ]
        if line.label:
            labels.append((y(line.points[-1][1]), line.label, line.class_))
    places = spread([at for at, _, _ in labels], 15, top + 4, bottom - 2)
    for (_, text, kind), at in zip(labels, places, strict=True):
        shapes.append(el("text", text, x=right + 8, y=at + 4, class_=f"direct {kind}"))
    return el(
        "svg",
        shapes,
        viewBox=f"0 0 {width:g} {height:g}",
        class_=f"lines {class_}".strip(),
        role="img",
        aria_label=title,
    )


def _point_tip(line: Line, x: float, y: float, x_format: Callable[[float], str]) -> str:
    return f"{line.label.partition(' ')[0] or 'value'} {plain(y)} at {x_format(x)}"


def _path(points: Sequence[Point]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
