"""The funnel as a river: sources flow in from the left, every rule takes its share out to the right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.report.markup import Markup, el
from pipeline.report.scales import fit, text_width

RADIUS = 9.0
GAP = 3.0
THINNEST = 0.8
"""A strip is drawn at least this thick, so that it is seen."""


@dataclass(frozen=True)
class Branch:
    """A tributary (a source) or a branch (a rule): how wide, and what stands beside it."""

    label: str
    value: float
    note: str
    tip: str


@dataclass(frozen=True)
class Reach:
    """A stage of the river: what leaves it, and what is said of the rest below it."""

    label: str
    branches: list[Branch] = field(default_factory=list)
    remaining: str = ""
    share: str = ""


@dataclass(frozen=True)
class _Layout:
    width: float
    band_left: float
    band_width: float
    strip_left: float
    strip_right: float
    row: float
    two_lines: bool


WIDE = _Layout(860, 270, 216, 204, 534, 22, False)
NARROW = _Layout(360, 112, 72, 88, 206, 34, True)


def river(
    name: str, inflows: Sequence[Branch], source: str, reaches: Sequence[Reach], mouth: str, narrow: bool
) -> Markup:
    """Return the chart.

    `name` keeps the ids of several charts on a page apart; `source` is said where all have joined, `mouth` at the end.
    Widths are proportional to values; the right edge loses what a rule removes.
    """
    layout = NARROW if narrow else WIDE
    total = sum(branch.value for branch in inflows) or 1.0
    unit = layout.band_width / total
    edge = layout.band_left + layout.band_width
    shapes: list[Markup] = []
    texts: list[Markup] = []
    # The outline of the river itself: down its right bank, then up its left one, where the tributaries come in.
    right_bank: list[tuple[float, float]] = []
    left_bank: list[tuple[float, float]] = []
    right, y = edge, 8.0
    for branch in inflows:
        thick = branch.value * unit
        row = max(thick + GAP, layout.row)
        top = y + (row - GAP - thick) / 2
        start = top + thick + RADIUS
        shapes += _tributary(f"{name}-in-{len(left_bank)}", branch, layout, right - thick, top, thick)
        texts += _label(branch, layout.strip_left - 8, top + thick / 2, layout, "end")
        left_bank += [(right, start), (right - thick, start)]
        right -= thick
        y += row
    y += 2 * RADIUS
    texts.append(_remaining(source, "", layout, y + 16))
    right, y = edge, y + 30
    for reach in reaches:
        texts.append(el("text", reach.label, x=layout.strip_right + 10, y=y + 4, class_="reach"))
        y += 6
        for branch in reach.branches:
            thick = branch.value * unit
            row = max(thick + GAP, layout.row)
            top = y + (row - GAP - thick) / 2
            shapes += _branch(f"{name}-out-{len(right_bank)}", branch, layout, right, top, thick)
            texts += _label(branch, layout.strip_right + 10, top + RADIUS + thick / 2, layout, "start")
            right_bank += [(right, top), (right - thick, top)]
            right -= thick
            y += row
        y += RADIUS + 14
        texts.append(_remaining(reach.remaining, reach.share, layout, y))
        y += 26
    right = max(right, layout.band_left + 1)  # what stays is seen, however little
    tip = y + 4 + min((right - layout.band_left) / 2, 16)
    right_bank += [(right, y + 4), ((layout.band_left + right) / 2, tip), (layout.band_left, y + 4)]
    outline = [*right_bank, *reversed(left_bank)]
    path = "M" + " L".join(f"{x:.2f} {down:.2f}" for x, down in outline) + " Z"
    height = tip + 30
    texts.append(el("text", mouth, x=4.0 if narrow else layout.band_left, y=height - 8, class_="mouth"))
    return el(
        "svg",
        shapes,
        el("path", d=path, class_="flow"),
        texts,
        viewBox=f"0 0 {layout.width:g} {height:.0f}",
        class_=f"river {'narrow' if narrow else 'wide'}",
        role="img",
        aria_label=f"{source}; {'; '.join(f'{reach.label}: {reach.remaining}' for reach in reaches)}; {mouth}",
    )


def _gradient(name: str, start: float, stop: float, colours: tuple[str, str]) -> Markup:
    """Along the straight part of a strip, so that its bend lies in the river's own colour."""
    stops = [el("stop", offset=offset, class_=colour) for offset, colour in zip(("0", "1"), colours, strict=True)]
    return el("linearGradient", stops, id=name, gradientUnits="userSpaceOnUse", x1=start, x2=stop, y1=0, y2=0)


def _tributary(name: str, branch: Branch, layout: _Layout, left: float, top: float, thick: float) -> list[Markup]:
    """A strip from the left that turns down into the river at [left, left + thick]; it overlaps it by a pixel."""
    thick = max(thick, THINNEST)
    outer, bend, bottom = RADIUS + thick, left - RADIUS, top + RADIUS + thick
    path = (
        f"M{layout.strip_left:.1f} {top:.2f} H{bend:.2f} "
        f"A{outer:.2f} {outer:.2f} 0 0 1 {left + thick:.2f} {bottom:.2f} v1 H{left:.2f} v-1 "
        f"A{RADIUS:.2f} {RADIUS:.2f} 0 0 0 {bend:.2f} {top + thick:.2f} H{layout.strip_left:.1f} Z"
    )
    return [
        _gradient(name, layout.strip_left, bend, ("stop-source", "stop-flow")),
        el("path", d=path, fill=f"url(#{name})", class_="strip", data_tip=branch.tip),
    ]


def _branch(name: str, branch: Branch, layout: _Layout, right: float, top: float, thick: float) -> list[Markup]:
    """The slice [right - thick, right] of the river, turning out to the right below `top`; they overlap by a pixel."""
    thick = max(thick, THINNEST)
    outer, out = RADIUS + thick, right + RADIUS
    path = (
        f"M{right:.2f} {top - 1:.2f} v1 A{RADIUS:.2f} {RADIUS:.2f} 0 0 0 {out:.2f} {top + RADIUS:.2f} "
        f"H{layout.strip_right:.1f} V{top + outer:.2f} H{out:.2f} "
        f"A{outer:.2f} {outer:.2f} 0 0 1 {right - thick:.2f} {top:.2f} v-1 Z"
    )
    return [
        _gradient(name, out, min(out + 60, layout.strip_right), ("stop-flow", "stop-gone")),
        el("path", d=path, fill=f"url(#{name})", class_="strip", data_tip=branch.tip),
    ]


def _label(branch: Branch, x: float, y: float, layout: _Layout, anchor: str) -> list[Markup]:
    if layout.two_lines:
        room = layout.width - x - 2 if anchor == "start" else x - 2
        return [
            el("text", fit(branch.label, room, 12), x=x, y=y - 2.0, class_="label", text_anchor=anchor),
            el("text", fit(branch.note, room, 11), x=x, y=y + 11.0, class_="note", text_anchor=anchor),
        ]
    room = (x - 14 if anchor == "end" else layout.width - x) - text_width(branch.note, 12)
    text = [fit(branch.label, room, 13), el("tspan", branch.note, class_="note", dx=8)]
    return [el("text", text, x=x, y=y + 4.5, class_="label", text_anchor=anchor)]


def _remaining(text: str, share: str, layout: _Layout, y: float) -> Markup:
    if layout.two_lines:
        return el("text", text, x=layout.band_left - 8, y=y, class_="stock", text_anchor="end")
    content = [text, el("tspan", share, class_="note", dx=8) if share else None]
    return el("text", content, x=layout.band_left - 12, y=y, class_="stock", text_anchor="end")
