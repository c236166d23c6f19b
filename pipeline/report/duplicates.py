"""The section on duplicates: the largest clusters, how near the near ones are, and one pair word by word."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.report.charts import Histogram, Threshold, histogram
from pipeline.report.diff import Piece, word_diff
from pipeline.report.facts import Cluster, Excerpt, Facts, Pair
from pipeline.report.formats import count, decimal, plain, size
from pipeline.report.markup import Child, Markup, el
from pipeline.report.tables import Cell, Column, absent, corpus_text, figure, section, table

EXCERPT = 110


def duplicate_section(facts: Facts) -> Markup:
    """Return what deduplication removed."""
    duplicates = facts.committed("duplicates")
    note = (
        "MinHash proposes pairs; a document goes only where one that stays really holds enough of it. "
        "A cluster is a document that stays and all that were removed in its favour."
    )
    if duplicates is None:
        return section("duplicates", "Duplicates", note, absent("The duplicates stage has not finished."))
    if not facts.corpus.clusters:
        return section("duplicates", "Duplicates", note, absent("No document repeats another."))
    exact, near = duplicates.counts.get("exact_duplicates", 0), duplicates.counts.get("near_duplicates", 0)
    intro = (
        f"{count(exact)} documents hold the very words of another, {count(near)} nearly the same: "
        f"{count(exact + near)} removals in {count(facts.corpus.clusters_in_all)} clusters."
    )
    largest = el("h3", "Largest clusters")
    content: list[Child] = [
        el("p", intro),
        _similarities(facts, duplicates.manifest["config"]),
        largest,
        _clusters(facts),
    ]
    if facts.corpus.pair:
        content += [el("h3", "One pair, word by word"), _pair(facts.corpus.pair)]
    return section("duplicates", "Duplicates", note, content)


def _similarities(facts: Facts, config: dict[str, Any]) -> Markup | None:
    values = np.asarray(facts.corpus.similarities, np.float64)
    if len(values) < 8:
        return None
    edges = np.linspace(0, 1, 41)
    counts = np.histogram(values, edges)[0].tolist()
    least = config.get("jaccard")
    thresholds = [Threshold(least, True, least)] if least else []
    data = Histogram(edges.tolist(), counts, [0] * 40, thresholds)
    caption = [
        el("b", "Jaccard similarity of the near duplicates"),
        el(
            "span",
            f"share of {config.get('shingle_words', 5)}-word shingles that a removed document and its twin share",
            class_="sub",
        ),
    ]
    return figure(histogram(data, "Jaccard similarity of near duplicates", 400, 120), caption, class_="medium")


def _clusters(facts: Facts) -> Markup:
    columns = [
        Column("Kept document"),
        Column("Source", "name"),
        Column("Exact", "number", "Removed documents with the same words"),
        Column("Near", "number", "Removed documents with nearly the same words"),
        Column("Least similar", "number", "Lowest Jaccard similarity in the cluster"),
        Column("Text removed", "number"),
    ]
    return table(columns, [_cluster_row(cluster) for cluster in facts.corpus.clusters])


def _cluster_row(cluster: Cluster) -> list[Child]:
    text = " ".join(cluster.excerpt.split())
    text = text[:EXCERPT].rstrip() + "…" if len(text) > EXCERPT else text
    return [
        [
            corpus_text(text, cluster.language, class_="excerpt"),
            el("br"),
            corpus_text(cluster.url or cluster.twin, class_="sub"),
        ],
        corpus_text(cluster.source),
        Cell(count(cluster.exact), cluster.exact),
        Cell(count(cluster.near), cluster.near),
        Cell(decimal(cluster.least_similarity, 2), cluster.least_similarity),
        Cell(size(cluster.bytes_removed), cluster.bytes_removed),
    ]


def _pair(pair: Pair) -> Markup:
    measures = [
        ("Jaccard similarity", pair.similarity),
        ("held by the twin", pair.containment),
        ("estimated by MinHash", pair.estimated),
    ]
    said = ", ".join(f"{name} {plain(value)}" for name, value in measures if value is not None)
    language = pair.twin.language or pair.gone.language
    pieces = word_diff(pair.gone.text, pair.twin.text)
    return el(
        "div",
        el(
            "dl",
            _side("Removed", pair.gone, "gone-text"),
            _side("Kept in its place", pair.twin),
            el("div", el("dt", "Measured"), el("dd", said)),
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
    if piece.kind == "skipped":
        return el("span", f"… {count(piece.words)} words the same …", class_="skip")
    if piece.kind == "rest":
        return el("span", f"… and so on for {count(piece.words)} words", class_="skip")
    return el({"same": "span", "gone": "del", "new": "ins"}[piece.kind], piece.text)
