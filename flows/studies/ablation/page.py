"""The page of an ablation: the verdicts, the differences with their intervals, and what stands behind them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from flows.studies.ablation.findings import Findings
from flows.studies.ablation.recipe import AblationRecipe
from pipeline.report.markup import Markup, join
from pipeline.report.plots import Series, plot
from pipeline.report.study import Page, Section, table
from training.comparison import Difference

_VERDICTS = {
    "better": "better",
    "worse": "worse",
    "none": "no difference shown",
    "chance": "no more than chance",
    "too_few": "too few documents",
}


def make_page(
    recipe: AblationRecipe,
    findings: Findings,
    lines: Sequence[str],
    trained: Mapping[str, Mapping[str, int]],
    tokens: int,
) -> Page:
    """The page; `trained` by arm the documents and tokens of its training part, `tokens` what each training sees."""
    control = [] if findings.control is None else [findings.control]
    shown = [*findings.overall, *control]
    plots: dict[str, str] = {}
    sections: list[Section] = []
    if shown:
        plots["differences"] = _forest(shown)
        sections.append(
            Section(
                "Differences from the reference",
                join([Markup(plots["differences"]), _table(shown, "documents")]),
                "Bits per byte of the same held-out documents; below zero the variant is better. Intervals hold "
                f"together at {recipe.level:.0%}: the seeds by analysis of variance, the documents by bootstrap. The "
                "control is the reference under other seeds.",
            )
        )
    if findings.sources:
        sections.append(
            Section(
                "By source",
                _table(findings.sources, "source"),
                f"The same over the documents of each source, corrected for all of them; nothing is said below "
                f"{recipe.minimum_documents} documents.",
            )
        )
    if findings.suite:
        sections.append(Section("By task", _table(findings.suite, "metric"), f"Suite {recipe.suite}."))
    rows = [
        [name, f"{facts['documents']:,}", f"{facts['tokens']:,}", f"{tokens / facts['tokens']:.2f}"]
        for name, facts in trained.items()
    ]
    sections.append(
        Section(
            "What each was trained on",
            table(["variant", "documents", "tokens", "epochs"], rows, (1, 2, 3)),
            f"Every training sees {tokens:,} tokens: a smaller corpus is read more often. No held-out document, and no "
            "copy of one, is in any of them.",
        )
    )
    settings = [["reference", "", "\n".join(recipe.overrides) or "the base recipe"]]
    settings += [[one.name, one.tests, "\n".join(one.overrides)] for one in recipe.variants]
    sections.append(Section("Variants", table(["variant", "decision", "settings"], settings)))
    return Page(recipe.description or f"Ablation {recipe.name}", lines, sections, plots, "Headrace ablation")


def _forest(differences: Sequence[Difference]) -> str:
    """A point with its interval for each variant, in their order."""
    places = [float(place + 1) for place in range(len(differences))]
    zero = Series("no difference", [0.5, len(differences) + 0.5], [0.0, 0.0], dashed=True, colour=7)
    points = [
        Series(
            f"{place:.0f} {one.variant}",
            [place],
            [one.difference],
            [one.low],
            [one.high],
            kind="points",
            tips=[f"{one.variant}: {one.difference:+.4f} ({one.low:+.4f} to {one.high:+.4f})"],
        )
        for place, one in zip(places, differences, strict=True)
    ]
    return plot(
        [*points, zero], "variant", "bits per byte, variant minus reference", title="Differences from the reference"
    )


def _table(differences: Sequence[Difference], group: str) -> Markup:
    rows = [
        [
            one.variant,
            f"{one.documents:,}" if group == "documents" else one.group,
            f"{one.value:.4f}",
            f"{one.reference:.4f}",
            f"{one.difference:+.4f}",
            "" if math.isnan(one.low) else f"{one.low:+.4f} to {one.high:+.4f}",
            f"{one.seeds_error:.4f}",
            f"{one.documents_error:.4f}",
            "" if math.isnan(one.p) else f"{one.p:.2g}",
            _VERDICTS[one.verdict],
        ]
        for one in differences
    ]
    columns = [
        "variant",
        group,
        "value",
        "reference",
        "difference",
        "interval",
        "seeds ±",
        "documents ±",
        "p",
        "verdict",
    ]
    return table(columns, rows, tuple(range(2, 9)))
