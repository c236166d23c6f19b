"""The section on duplicates: the largest clusters, how near the near ones are, one pair word by word, spans cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.catalog.diff import Piece, word_diff
from pipeline.report.charts import Histogram, Threshold, histogram
from pipeline.report.facts import Cluster, Cut, Excerpt, Facts, KnownDocuments, Pair
from pipeline.report.formats import count, decimal, plain, rule_name, size
from pipeline.report.markup import Child, Markup, el
from pipeline.report.tables import Cell, Column, absent, corpus_text, figure, section, table

EXCERPT = 110
FEWEST_IN_HISTOGRAM = 8
BINS = 40
MOST_SHOWN = 420

_HISTOGRAMS = (
    ("coverage", "coverage", "Coverage", "share of the words of the removed one in shingles of its twin"),
    (
        "similarity",
        "jaccard",
        "Jaccard similarity",
        "share of all shingles of the two that both have",
    ),
    (
        "estimated",
        "",
        "Estimated similarity",
        "share of the MinHash values in which the two agree",
    ),
)
"""Measure, the setting that holds its threshold, its name, and what it is."""


def duplicate_section(facts: Facts) -> Markup:
    """Return what deduplication removed."""
    duplicates = facts.committed("duplicates")
    note = (
        "MinHash proposes pairs; a document goes only where one that stays really holds enough of it. "
        "A cluster is a document that stays and all that were removed in its favour."
    )
    if duplicates is None:
        return section("duplicates", "Duplicates", note, absent("The duplicates stage has not finished."))
    config = duplicates.manifest["config"]
    if not config["verify"]:
        note = (
            "MinHash proposes pairs; of all documents that pairs connect, directly or through others, one stays. "
            "Nothing was verified. A cluster is a document that stays and all that were removed in its favour."
        )
    known = _known(facts.corpus.known) if facts.corpus.known else None
    content: list[Child] = [absent("No document repeats another."), known]
    if facts.corpus.clusters:
        content = [_intro(facts, duplicates.counts), known, _histograms(facts, config)]
        content += [el("h3", "Largest clusters"), _clusters(facts)]
    repeats = [*_cuts(facts.corpus.cuts), *_counted(facts)]
    if repeats:
        content += [el("h3", "Repeated passages"), *repeats]
    if facts.corpus.pair:
        content += [el("h3", "One pair, word by word"), _pair(facts.corpus.pair)]
    return section("duplicates", "Duplicates", note, content)


def _intro(facts: Facts, counts: Mapping[str, int]) -> Markup:
    exact, url, near = (counts.get(f"{kind}_duplicates", 0) for kind in ("exact", "url", "near"))
    same_url = f"{count(url)} have the URL of another, whatever their text, " if url else ""
    return el(
        "p",
        f"{count(exact)} documents hold the very words of another, {same_url}{count(near)} nearly the same: "
        f"{count(exact + url + near)} removals in {count(facts.corpus.clusters_in_all)} clusters.",
    )


def _known(known: KnownDocuments) -> Markup:
    runs = "an earlier run" if known.runs == 1 else f"{count(known.runs)} earlier runs"
    removed = f"{count(known.removed)} went" if known.removed else "none went"
    return el(
        "p",
        f"Compared with the {count(known.documents)} documents of {runs}, too: {removed} in favour of a known one.",
    )


def _histograms(facts: Facts, config: Mapping[str, Any]) -> Markup | None:
    signatures = facts.committed("signatures")
    words = signatures.manifest["config"]["shingle_words"] if signatures else None
    figures = []
    for measure, setting, name, said in _HISTOGRAMS:
        values = np.asarray(facts.corpus.near_measures.get(measure, ()), np.float64)
        if len(values) < FEWEST_IN_HISTOGRAM:
            continue
        least = config.get(setting) or None
        low = np.floor(10 * min(float(values.min()), least or 1.0) - 0.5) / 10
        edges = np.linspace(max(0.0, low), 1, BINS + 1)
        thresholds = [Threshold(least, True, least, f"{setting}: at least {plain(least)}")] if least else []
        data = Histogram(edges.tolist(), np.histogram(values, edges)[0].tolist(), [0] * BINS, thresholds)
        sub = said.replace("shingles", f"{words}-word shingles") if words else said
        caption = [el("b", f"{name} of the near duplicates"), el("span", sub, class_="sub")]
        figures.append(figure(histogram(data, f"{name} of near duplicates", 400, 120), caption, class_="medium"))
    return el("div", figures, class_="columns") if figures else None


def _clusters(facts: Facts) -> Markup:
    shown = facts.corpus.clusters
    columns = [
        Column("Kept document"),
        Column("Source", "name"),
        Column("Exact", "number", "Removed documents with the same words"),
        Column("Near", "number", "Removed documents with nearly the same words"),
        Column("Coverage", "number", "Lowest share of a removed one's words in shingles of the kept one"),
        Column("Similarity", "number", "Lowest Jaccard similarity in the cluster"),
        Column("Text removed", "number"),
    ]
    same_url = any(cluster.same_url for cluster in shown)
    if same_url:
        columns.insert(3, Column("URL", "number", "Removed documents with the same URL"))
    more = f"The first {len(shown)} of {count(facts.corpus.clusters_in_all)}."
    caption = more if facts.corpus.clusters_in_all > len(shown) else ""
    return table(columns, [_cluster_row(cluster, same_url) for cluster in shown], caption=caption)


def _cluster_row(cluster: Cluster, same_url: bool) -> list[Child]:
    text = " ".join(cluster.excerpt.split())
    text = text[:EXCERPT].rstrip() + "…" if len(text) > EXCERPT else text
    return [
        [
            corpus_text(text, cluster.language, class_="excerpt"),
            el("br"),
            corpus_text(cluster.url or cluster.twin, class_="sub"),
            el("span", " · of an earlier run", class_="sub") if cluster.known else None,
        ],
        corpus_text(cluster.source),
        Cell(count(cluster.exact), cluster.exact),
        *([Cell(count(cluster.same_url), cluster.same_url)] if same_url else []),
        Cell(count(cluster.near), cluster.near),
        Cell(decimal(cluster.least_coverage, 2), cluster.least_coverage),
        Cell(decimal(cluster.least_similarity, 2), cluster.least_similarity),
        Cell(size(cluster.bytes_removed), cluster.bytes_removed),
    ]


def _cuts(cuts: Sequence[Cut]) -> list[Markup]:
    if not cuts:
        return []
    columns = [
        Column("What was repeated", "name"),
        Column("Documents", "number", "Documents that stay without it"),
        Column("Spans", "number", "Stretches of text that were cut out"),
        Column("Text removed", "number"),
    ]
    rows: list[list[Child]] = [
        [
            rule_name(cut.rule),
            Cell(count(cut.documents), cut.documents),
            Cell(count(cut.spans), cut.spans),
            Cell(size(cut.bytes), cut.bytes),
        ]
        for cut in cuts
    ]
    told = "Text that stands in other documents, too, was cut out of documents that stay."
    return [el("p", told), table(columns, rows)]


def _counted(facts: Facts) -> list[Markup]:
    """Return a sentence for each search for repeated text whose finds were not cut."""
    deduplicate = facts.committed("deduplicate")
    searches = {name: facts.committed(name) for name in ("lines", "substrings")}
    return [
        el(
            "p",
            f"{count(search.counts['spans'])} stretches of text found by {name} were counted, and left where they are.",
        )
        for name, search in searches.items()
        if search and deduplicate and name not in deduplicate.manifest["inputs"]
    ]


def _pair(pair: Pair) -> Markup:
    measures = [
        ("coverage", pair.coverage),
        ("Jaccard similarity", pair.similarity),
        ("shingles held by the twin", pair.containment),
        ("similarity estimated by MinHash", pair.estimated),
    ]
    said = ", ".join(f"{name} {plain(value)}" for name, value in measures if value is not None)
    language = pair.twin.language or pair.gone.language
    pieces = word_diff(pair.gone.text, pair.twin.text, most_shown=MOST_SHOWN)
    kept = "Kept in its place, known from an earlier run" if pair.known else "Kept in its place"
    return el(
        "div",
        el(
            "dl",
            _side("Removed", pair.gone, "gone-text"),
            _side(kept, pair.twin),
            el("div", el("dt", "Measured"), el("dd", said or "the same URL")),
            class_="pair",
        ),
        el(
            "p",
            el("del", "struck"),
            ": in the removed one only. ",
            el("ins", "underlined"),
            ": in the kept one only.",
            class_="marks aside",
        ),
        el("div", [_diff_piece(piece) for piece in pieces], class_="prose diff", dir="auto", lang=language or None),
    )


def _side(label: str, document: Excerpt, class_: str | None = None) -> Markup:
    where = f"{document.source} · {document.url or document.id}"
    return el("div", el("dt", label), el("dd", corpus_text(where, class_=class_)))


def _diff_piece(piece: Piece) -> Markup:
    tag = {"gone": "del", "new": "ins"}.get(piece.kind, "span")
    if piece.text:
        return el(tag, piece.text)
    if piece.kind == "rest":
        words = f" for {count(piece.words)} words" if piece.words else ""
        return el("span", f"… and so on{words}", class_="skip")
    same = "the same" if piece.kind == "same" else "more"
    return el(tag, f"… {count(piece.words)} words {same} …", class_="skip")
