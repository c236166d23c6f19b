"""Plots of studies as inline SVG: points, lines and bands over linear or logarithmic axes, with a legend."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.report.markup import Markup, el, join
from pipeline.report.scales import text_width, thin, ticks

_COLOURS = 8
_MOST_POINTS = 800


@dataclass(frozen=True)
class Series:
    """Values over x: a line, points, or a band between `low` and `high` around the line y.

    What is no finite number, or not above 0 on a logarithmic axis, is left out. `tips` are the words of each point.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    kind: Literal["line", "points", "band"] = "line"
    colour: int | None = None
    """0 to 7; by default that of the place among the series. Points and the line fitted to them may share one."""
    dashed: bool = False
    tips: Sequence[str] | None = None


def plot(
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    log_x: bool = False,
    log_y: bool = False,
    *,
    width: float = 860,
    height: float = 400,
    title: str = "",
) -> Markup:
    """Return a plot as one SVG element in the look of the report, with a legend of the named series.

    `low` and `high` of points are error bars, of a line or a band the edges of a shaded area. Raises ValueError for a
    series whose sequences differ in length.
    """
    drawn = [_usable(one, log_x, log_y, index) for index, one in enumerate(series)]
    xs = [x for one in drawn for x in one.x]
    ys = [y for one in drawn for y in (*one.y, *one.low, *one.high)]
    if not xs:
        return el("p", "No values.", class_="absent")
    rows = _legend(drawn, width - 70)
    left, right, top = 64.0, width - 14.0, 12.0 + 20.0 * (1 + max((row for row, _, _ in rows), default=-1))
    bottom = height - 46.0
    x, y = _Axis.over(xs, left, right, log_x), _Axis.over(ys, bottom, top, log_y)
    shapes: list[Markup] = []
    for mark in y.marks(max(3, int((bottom - top) / 55))):
        shapes += [
            el("line", x1=left, x2=right, y1=y(mark), y2=y(mark), class_="grid"),
            el("text", short(mark), x=left - 8, y=y(mark) + 4, class_="tick", text_anchor="end"),
        ]
    for mark in x.marks(max(3, int((right - left) / 110))):
        shapes += [
            el("line", x1=x(mark), x2=x(mark), y1=bottom, y2=bottom + 4, class_="axis"),
            el("text", short(mark), x=x(mark), y=bottom + 18, class_="tick", text_anchor="middle"),
        ]
    shapes.append(el("line", x1=left, x2=right, y1=bottom, y2=bottom, class_="axis"))
    shapes.append(el("text", x_label, x=(left + right) / 2, y=height - 8, class_="tick", text_anchor="middle"))
    middle = (top + bottom) / 2
    turned = f"rotate(-90 14 {middle:.1f})"
    shapes.append(el("text", y_label, x=14, y=middle, class_="tick", text_anchor="middle", transform=turned))
    for one in sorted(drawn, key=lambda one: ("band", "line", "points").index(one.kind)):
        shapes += _draw(one, x, y)
    for row, at, one in rows:
        shapes += _key(one, left + at, 12.0 + 20.0 * row)
    return el(
        "svg",
        shapes,
        viewBox=f"0 0 {width:g} {height:g}",
        class_="lines plot",
        role="img",
        aria_label=title or f"{y_label} over {x_label}",
    )


def standalone(svg: str) -> str:
    """Return a plot as the content of an SVG file, with the colours that the page would give it."""
    from importlib import resources

    style = resources.files(__package__).joinpath("style.css").read_text(encoding="utf-8")
    # In CDATA: the style's own characters must not be read as markup. Dark colours belong to a page.
    plain = style.partition("@media screen")[0] + style.partition("* { box-sizing")[2]
    head, _, rest = svg.partition(">")
    return f'{head} xmlns="http://www.w3.org/2000/svg" width="860"><style><![CDATA[{plain}]]></style>{rest}\n'


def short(value: float) -> str:
    """Return a number as an axis writes it: 0.05, 3.2, 150, 20k, 1.5M, 3B, 1e18."""
    size = abs(value)
    if size == 0:
        return "0"
    if size >= 1e13 or size < 1e-3:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        mantissa = mantissa.rstrip("0").rstrip(".")
        return f"{mantissa}e{int(exponent)}"
    for least, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e4, "k")):
        if size >= least:
            factor = 1e3 if unit == "k" else least
            return f"{value / factor:.4g}{unit}"
    return f"{value:.4g}"


@dataclass(frozen=True)
class _Drawn:
    """A series without the values that cannot be drawn."""

    name: str
    x: list[float]
    y: list[float]
    low: list[float]
    high: list[float]
    kind: str
    class_: str
    dashed: bool
    tips: list[str]


def _usable(one: Series, log_x: bool, log_y: bool, index: int) -> _Drawn:
    lengths = {len(values) for values in (one.x, one.y, one.low, one.high, one.tips) if values is not None}
    if len(lengths) > 1:
        raise ValueError(f"the series {one.name!r} has sequences of different lengths: {sorted(lengths)}")

    def good(value: float, log: bool) -> bool:
        return math.isfinite(value) and (value > 0 or not log)

    edges = one.low is not None and one.high is not None
    kept = [
        place
        for place in range(len(one.x))
        if good(one.x[place], log_x)
        and good(one.y[place], log_y)
        and (not edges or (good(one.low[place], log_y) and good(one.high[place], log_y)))  # type: ignore[index]
    ]

    def chosen(values: Sequence[float] | None) -> list[float]:
        return [float(values[place]) for place in kept] if values is not None and edges else []

    return _Drawn(
        one.name,
        [float(one.x[place]) for place in kept],
        [float(one.y[place]) for place in kept],
        chosen(one.low),
        chosen(one.high),
        one.kind,
        f"s{(index if one.colour is None else one.colour) % _COLOURS}",
        one.dashed,
        [one.tips[place] for place in kept] if one.tips is not None else [],
    )


@dataclass(frozen=True)
class _Axis:
    """A map from values to pixels, straight or by the logarithm, with some room at both ends."""

    low: float
    high: float
    start: float
    stop: float
    log: bool

    @classmethod
    def over(cls, values: Sequence[float], start: float, stop: float, log: bool) -> _Axis:
        low, high = min(values), max(values)
        inner = (math.log10(low), math.log10(high)) if log else (low, high)
        room = 0.04 * (inner[1] - inner[0]) or (0.1 if log else 0.05 * (abs(low) or 1.0))
        return cls(inner[0] - room, inner[1] + room, start, stop, log)

    def __call__(self, value: float) -> float:
        inner = math.log10(value) if self.log else value
        return self.start + (inner - self.low) / (self.high - self.low) * (self.stop - self.start)

    def marks(self, about: int) -> list[float]:
        """Round values inside the axis: powers of ten, or 1, 2 and 5 times them, where it is logarithmic and long."""
        if not self.log:
            return ticks(self.low, self.high, about)
        first, last = math.floor(self.low), math.ceil(self.high)
        for factors in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)):
            found = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
            inside = [value for value in found if self.low <= math.log10(value) <= self.high]
            if len(inside) >= max(3, about - 2):
                step = math.ceil(len(inside) / (2 * about))
                return inside[::step]
        return [round(value, 12) for value in ticks(10**self.low, 10**self.high, about) if value > 0]


def _draw(one: _Drawn, x: Callable[[float], float], y: Callable[[float], float]) -> list[Markup]:
    shapes: list[Markup] = []
    if one.low and one.kind != "points":
        order = sorted(range(len(one.x)), key=lambda place: one.x[place])
        upper = [(x(one.x[place]), y(one.high[place])) for place in order]
        lower = [(x(one.x[place]), y(one.low[place])) for place in reversed(order)]
        shapes.append(el("path", d=_path([*upper, *lower]) + "Z", class_=f"band {one.class_}"))
    if one.kind == "points":
        for place, (px, py) in enumerate(zip(one.x, one.y, strict=True)):
            at = x(px)
            if one.low:
                shapes.append(
                    el("line", x1=at, x2=at, y1=y(one.low[place]), y2=y(one.high[place]), class_=f"line {one.class_}")
                )
            words = one.tips[place] if one.tips else f"{one.name}: {short(py)} at {short(px)}".removeprefix(": ")
            shapes.append(el("circle", cx=at, cy=y(py), r=4, class_=f"point {one.class_}", data_tip=words))
    elif one.x:
        order = sorted(range(len(one.x)), key=lambda place: one.x[place])
        points = thin([(one.x[place], one.y[place]) for place in order], _MOST_POINTS)
        dashes = "6 4" if one.dashed else None
        class_ = f"line {one.class_}"
        shapes.append(el("path", d=_path([(x(a), y(b)) for a, b in points]), class_=class_, stroke_dasharray=dashes))
    return shapes


def _legend(drawn: Sequence[_Drawn], room: float) -> list[tuple[int, float, _Drawn]]:
    """Row and place of each named series in the legend, whose rows are `room` wide."""
    places: list[tuple[int, float, _Drawn]] = []
    row, at = 0, 0.0
    for one in drawn:
        if not one.name or not one.x:
            continue
        wide = 42 + text_width(one.name, 12.5)
        if at and at + wide > room:
            row, at = row + 1, 0.0
        places.append((row, at, one))
        at += wide
    return places


def _key(one: _Drawn, at: float, y: float) -> list[Markup]:
    if one.kind == "points":
        sign = el("circle", cx=at + 9, cy=y, r=4, class_=f"point {one.class_}")
    elif one.kind == "band":
        sign = el("rect", x=at, y=y - 5, width=18, height=10, class_=f"band {one.class_}")
    else:
        dashes = "6 4" if one.dashed else None
        sign = el("line", x1=at, x2=at + 18, y1=y, y2=y, class_=f"line {one.class_}", stroke_dasharray=dashes)
    return [sign, el("text", one.name, x=at + 24, y=y + 4, class_="direct")]


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in points)


def figure(svg: str, caption: str, note: str = "") -> Markup:
    """Return a plot with what it shows, in bold, and a note."""
    words = [el("b", caption), el("span", note, class_="sub") if note else None]
    return el("figure", el("figcaption", words), join([Markup(svg)]))
