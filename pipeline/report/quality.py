"""The sections on languages and on quality."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.report.charts import Histogram, Part, Threshold, bar, histogram
from pipeline.report.facts import Amount, Facts, Language, SignalFacts
from pipeline.report.formats import count, language_name, percent, plain, size, words
from pipeline.report.markup import Child, Markup, el
from pipeline.report.tables import Cell, Column, absent, figure, key, section, table

MOST_LANGUAGES = 14
ALWAYS = ("words", "mean_word_length", "hash_to_word_ratio", "duplicate_line_fraction", "stop_words")
"""Signals that are always shown; another one is folded away where its rules dropped next to nothing."""
LEAST_DROPPED = 0.002


def language_section(facts: Facts) -> Markup:
    """Return the languages of the deduplicated corpus: what stayed and what went."""
    note = "As fastText's lid.176 names them, after deduplication. The bars are documents, on one scale."
    if not facts.corpus.languages:
        return section(
            "languages", "Languages", note, absent("The annotate stage has not finished, or found no documents.")
        )
    languages = _bounded(facts.corpus.languages)
    tokens: dict[str, int] = {}
    named = {language.code for language in languages}
    for row in facts.corpus.tokens:
        code = row.language if row.language in named else OTHER
        tokens[code] = tokens.get(code, 0) + row.tokens
    most = max(_whole(language).documents for language in languages)
    rows: list[list[Child]] = []
    for language in languages:
        whole = _whole(language)
        parts = [
            Part(language.kept.documents, "kept", f"{count(language.kept.documents)} kept"),
            Part(
                language.dropped_by_quality.documents,
                "gone",
                f"{count(language.dropped_by_quality.documents)} dropped for quality",
            ),
            Part(
                language.dropped_by_language.documents,
                "gone-2",
                f"{count(language.dropped_by_language.documents)} dropped by language",
            ),
        ]
        name = (
            language_name(language.code)
            if language.code != OTHER
            else f"{len(facts.corpus.languages) - len(languages) + 1} others"
        )
        shown = language.code if name != language.code and language.code != OTHER else ""
        rows.append(
            [
                [name, el("span", f" {shown}", class_="sub") if shown else None],
                Cell(count(whole.documents), whole.documents),
                Cell(bar(parts, most), whole.documents),
                Cell(percent(language.kept.documents, whole.documents), language.kept.documents / whole.documents),
                Cell(size(language.kept.bytes), language.kept.bytes),
                Cell(count(tokens.get(language.code)), tokens.get(language.code, 0)),
            ]
        )
    columns = [
        Column("Language", "name"),
        Column("Documents", "number"),
        Column("", "chart"),
        Column("Kept", "number"),
        Column("Text kept", "number"),
        Column("Tokens", "number"),
    ]
    keys = [key("kept", "kept"), key("gone", "dropped for quality"), key("gone-2", "dropped by language")]
    return section("languages", "Languages", note, el("div", keys, class_="keys"), table(columns, rows))


OTHER = "\0"


def _whole(language: Language) -> Amount:
    return language.kept + language.dropped_by_language + language.dropped_by_quality


def _bounded(languages: Sequence[Language]) -> list[Language]:
    if len(languages) <= MOST_LANGUAGES + 1:
        return list(languages)
    rest = languages[MOST_LANGUAGES:]
    sums = [
        sum((getattr(language, name) for language in rest), Amount())
        for name in ("kept", "dropped_by_language", "dropped_by_quality")
    ]
    return [*languages[:MOST_LANGUAGES], Language(OTHER, *sums)]


def quality_section(facts: Facts) -> Markup:
    """Return the histograms of the signals that the filter judges, with its thresholds.

    A document goes by the first rule that it fails: a signal may have some outside its limits and have dropped none.
    """
    note = (
        "Measured once on every document that deduplication left; the filter only compares. A solid line is the limit, "
        "a dotted one holds for some languages, and the part of a bar that lies outside its own limit is coloured. "
        "Heights grow with the square root of the number, so that small bars are seen."
    )
    if not facts.corpus.signals:
        reason = "The annotate or the filter stage has not finished, or found no documents."
        return section("quality", "Quality", note, absent(reason))
    shown = [
        signal
        for signal in facts.corpus.signals
        if signal.dropped_first >= LEAST_DROPPED * signal.measured or signal.signal in ALWAYS
    ]
    folded = [signal for signal in facts.corpus.signals if signal not in shown]
    content: list[Child] = [el("div", [_signal(signal) for signal in shown], class_="small-multiples")]
    if folded:
        label = f"{len(folded)} more signals, whose rules had next to nothing left to drop"
        figures = el("div", [_signal(signal) for signal in folded], class_="small-multiples")
        content.append(el("details", el("summary", label), figures) if shown else figures)
    return section("quality", "Quality", note, content)


def _signal(signal: SignalFacts) -> Markup:
    whole = all(edge == int(edge) for edge in signal.edges)
    data = Histogram(signal.edges, signal.counts, signal.failing, _thresholds(signal, whole), signal.log, whole)
    outside = sum(signal.failing)
    share = f"{percent(outside, signal.measured)} outside" if outside else "none outside"
    first = f", {percent(signal.dropped_first, signal.measured)} dropped for it first" if signal.dropped_first else ""
    title = words(signal.signal)
    caption = [
        el("b", title[:1].upper() + title[1:]),
        el("span", f"{share}{first}", class_="sub", title=signal.description),
    ]
    return figure(histogram(data, f"{title}: {share}{first}"), caption)


def _thresholds(signal: SignalFacts, whole: bool) -> list[Threshold]:
    """The general limits, and aside those of languages that are among the documents."""
    thresholds = []
    for limit in signal.limits:
        shift = 1 if whole and not limit.least else 0
        if limit.threshold is not None:
            text = f"{limit.rule}\n{'at least' if limit.least else 'at most'} {plain(limit.threshold)}"
            thresholds.append(Threshold(limit.threshold, limit.least, limit.threshold + shift, text))
        others: dict[float, list[str]] = {}
        for language, value in limit.by_language.items():
            if value is not None and signal.languages.get(language):
                others.setdefault(value, []).append(language_name(language))
        for value, names in sorted(others.items()):
            text = f"{', '.join(names)}: {'at least' if limit.least else 'at most'} {plain(value)}"
            thresholds.append(Threshold(value, limit.least, value + shift, text, aside=True))
    return thresholds
