"""The funnel as a river: sources flow in from the left, every rule takes its share out to the right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.report.markup import Markup, el
from pipeline.report.scales import fit

RADIUS = 9.0
GAP = 3.0


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


WIDE = _Layout(860, 262, 216, 196, 530, 22, False)
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
    shapes: list[Markup] = []
    texts: list[Markup] = []
    edge = layout.band_left + layout.band_width
    right = edge
    y = 8.0
    for branch in inflows:
        thick = branch.value * unit
        height = max(thick + GAP, layout.row)
        top = y + (height - GAP - thick) / 2
        shapes.append(_tributary(name, branch, layout, right - thick, top, thick))
        texts += _label(branch, layout.strip_left - 8, top + thick / 2, layout, "end")
        right -= thick
        y += height
    join = y + 2 * RADIUS
    texts.append(_remaining(source, "", layout, join + 16))
    outline = [(edge, join)]
    # Verticals of the tributaries down to where the last one has joined.
    right, y = edge, 8.0
    for branch in inflows:
        thick = branch.value * unit
        height = max(thick + GAP, layout.row)
        top = y + (height - GAP - thick) / 2
        start = top + thick + RADIUS
        shapes.append(el("rect", x=right - thick, y=start, width=max(thick, 0.6), height=join - start, class_="flow"))
        right -= thick
        y += height
    right, y = edge, join + 30
    for reach in reaches:
        texts.append(
            el("text", reach.label, x=layout.strip_right + 10, y=y + (4 if reach.branches else 12), class_="reach")
        )
        y += 6
        for branch in reach.branches:
            thick = branch.value * unit
            height = max(thick + GAP, layout.row)
            top = y + (height - GAP - thick) / 2
            shapes.append(_branch(name, branch, layout, right, top, thick))
            texts += _label(branch, layout.strip_right + 10, top + RADIUS + thick / 2, layout, "start")
            outline += [(right, top), (right - thick, top)]
            right -= thick
            y += height
        y += RADIUS + 14
        texts.append(_remaining(reach.remaining, reach.share, layout, y))
        y += 26
    bottom = y + 4
    outline += [(right, bottom), (layout.band_left, bottom), (layout.band_left, join)]
    path = "M" + " L".join(f"{x:.1f} {top:.1f}" for x, top in outline) + " Z"
    middle = (layout.band_left + right) / 2
    half = max((right - layout.band_left) / 2, 3.0)
    arrow = f"M{middle - half:.1f} {bottom - 0.5:.1f} H{middle + half:.1f} L{middle:.1f} {bottom + min(half, 16):.1f} Z"
    shapes += [el("path", d=path, class_="flow"), el("path", d=arrow, class_="flow")]
    height = bottom + 44
    texts.append(el("text", mouth, x=layout.band_left if not narrow else 4.0, y=height - 8, class_="mouth"))
    return el(
        "svg",
        _gradients(name),
        shapes,
        texts,
        viewBox=f"0 0 {layout.width:g} {height:.0f}",
        class_=f"river {'narrow' if narrow else 'wide'}",
        role="img",
        aria_label=f"{source}; {'; '.join(f'{reach.label}: {reach.remaining}' for reach in reaches)}; {mouth}",
    )


def _gradients(name: str) -> Markup:
    stops = {"in": ("stop-source", "stop-flow"), "out": ("stop-flow", "stop-gone")}
    return el(
        "defs",
        [
            el(
                "linearGradient",
                el("stop", offset="5%", class_=first),
                el("stop", offset="75%", class_=second),
                id=f"{name}-{direction}",
            )
            for direction, (first, second) in stops.items()
        ],
    )


def _tributary(name: str, branch: Branch, layout: _Layout, left: float, top: float, thick: float) -> Markup:
    """A strip from the left that turns down into the band at [left, left + thick]."""
    outer = RADIUS + thick
    bend = left - RADIUS
    path = (
        f"M{layout.strip_left:.1f} {top:.2f} H{bend:.2f} A{outer:.2f} {outer:.2f} 0 0 1 {left + thick:.2f} {top + outer:.2f} "
        f"H{left:.2f} A{RADIUS:.2f} {RADIUS:.2f} 0 0 0 {bend:.2f} {top + thick:.2f} H{layout.strip_left:.1f} Z"
    )
    return el("path", d=path, fill=f"url(#{name}-in)", class_="strip", data_tip=branch.tip)


def _branch(name: str, branch: Branch, layout: _Layout, right: float, top: float, thick: float) -> Markup:
    """The slice [right - thick, right] of the band, turning out to the right below `top`."""
    outer = RADIUS + thick
    out = right + RADIUS
    path = (
        f"M{right:.2f} {top:.2f} A{RADIUS:.2f} {RADIUS:.2f} 0 0 0 {out:.2f} {top + RADIUS:.2f} H{layout.strip_right:.1f} "
        f"V{top + outer:.2f} H{out:.2f} A{outer:.2f} {outer:.2f} 0 0 1 {right - thick:.2f} {top:.2f} Z"
    )
    return el("path", d=path, fill=f"url(#{name}-out)", class_="strip", data_tip=branch.tip)


def _label(branch: Branch, x: float, y: float, layout: _Layout, anchor: str) -> list[Markup]:
    if layout.two_lines:
        room = layout.width - x - 2 if anchor == "start" else x - 2
        return [
            el("text", fit(branch.label, room, 12), x=x, y=y - 2.0, class_="label", text_anchor=anchor),
            el("text", fit(branch.note, room, 11), x=x, y=y + 11.0, class_="note", text_anchor=anchor),
        ]
    if anchor == "end":
        text = [fit(branch.label, 100, 13), el("tspan", branch.note, class_="note", dx=8)]
    else:
        text = [fit(branch.label, 236, 13), el("tspan", branch.note, class_="note", dx=8)]
    return [el("text", text, x=x, y=y + 4.5, class_="label", text_anchor=anchor)]


def _remaining(text: str, share: str, layout: _Layout, y: float) -> Markup:
    if layout.two_lines:
        return el("text", text, x=layout.band_left - 8, y=y, class_="stock", text_anchor="end")
    content = [text, el("tspan", share, class_="note", dx=8) if share else None]
    return el("text", content, x=layout.band_left - 12, y=y, class_="stock", text_anchor="end")
