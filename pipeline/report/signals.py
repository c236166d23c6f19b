"""Distributions of the quality signals beside the rules over them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.filter import FilterConfig, evaluate
from pipeline.quality.signals import SIGNALS
from pipeline.report.facts import Limit, SignalFacts, StageFacts
from pipeline.signals import Signals
from pipeline.store import Committed

BINS = 40
LOG_BINS = 34
LARGE_COUNT = 60
"""Whole numbers above this are shown on a logarithmic scale."""

DESCRIPTIONS = {
    "language_score": "probability that fastText gives the likeliest language",
    "other_language_fraction": "share of the text read that is in another language, by pieces",
    "language_script_fraction": "share of the letters that are in a script of the language",
    **{signal.name: signal.description for signal in SIGNALS},
}
WHOLE = {signal.name for signal in SIGNALS if pa.types.is_integer(signal.type)} | {"bad_words", "url_bad_words"}


@dataclass
class _Tally:
    """What is known of a signal while the files are read."""

    edges: NDArray[np.float64]
    counts: NDArray[np.int64]
    failing: NDArray[np.int64]
    measured: int = 0


def signal_facts(stages: Mapping[str, StageFacts], dropped: Mapping[str, int]) -> list[SignalFacts]:
    """Return every signal that a rule of the filter judges, in the order of the rules.

    `dropped` is the number of documents that went by each rule. There are none until annotate and filter have finished.
    """
    annotate = stages["annotate"].committed if "annotate" in stages else None
    filtered = stages["filter"].committed if "filter" in stages else None
    if annotate is None or filtered is None:
        return []
    config = filter_config(filtered)
    limits = filter_limits(config, annotate.manifest["summary"]["documents_by_language"].keys())
    measured = {name: stage.committed for name, stage in stages.items() if stage.committed is not None}
    signals = Signals(measured, config.perplexity)
    numeric = [name for name in limits if name in signals.schema.names and _is_numeric(signals.schema.field(name).type)]
    limits = {name: limits[name] for name in numeric}
    extents = _extents(signals, numeric)
    tallies = {}
    for name, (low, high) in extents.items():
        edges = bin_edges(name, low, high, [limit.threshold for limit in limits[name] if limit.threshold is not None])
        tallies[name] = _Tally(edges, np.zeros(len(edges) - 1, np.int64), np.zeros(len(edges) - 1, np.int64))
    languages: dict[str, int] = {}
    for shard in range(signals.shards):
        table = signals.table(shard)
        for name, number in zip(*np.unique(table["language"].to_numpy(), return_counts=True), strict=True):
            languages[name] = languages.get(name, 0) + int(number)
        _count(table, config, tallies)
    return [
        SignalFacts(
            name,
            DESCRIPTIONS.get(name, ""),
            tally.edges.tolist(),
            tally.counts.tolist(),
            tally.failing.tolist(),
            _is_logarithmic(name, tally.edges[-1]),
            tally.measured,
            limits[name],
            dict(sorted(languages.items())),
            sum(dropped.get(limit.rule, 0) for limit in limits[name]),
        )
        for name, tally in tallies.items()
    ]


def filter_config(filtered: Committed) -> FilterConfig:
    """Return the configuration of a committed filter stage."""
    config = filtered.manifest["config"]
    return FilterConfig(**{name: config[name] for name in FilterConfig.model_fields if name in config})


def filter_limits(config: FilterConfig, languages: Collection[str]) -> dict[str, list[Limit]]:
    """Return the rules over each signal, in their order; those that are off for all of `languages` are left out."""
    found: dict[str, list[Limit]] = {}
    for rules in config.rule_sets():
        names = {*rules.language_defaults(), *rules.overrides} & set(languages)
        others = {name: {rule.name: rule.threshold for rule in rules.rules(name)} for name in names}
        for rule in rules.rules():
            differing = {
                language: thresholds[rule.name]
                for language, thresholds in sorted(others.items())
                if thresholds[rule.name] != rule.threshold
            }
            if rule.threshold is not None or any(threshold is not None for threshold in differing.values()):
                limit = Limit(rule.name, rule.bound == "minimum", rule.threshold, differing)
                found.setdefault(rule.signal, []).append(limit)
    return found


def _is_numeric(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _extents(signals: Signals, names: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Least and largest value of each column over all shards; a column without a value is left out."""
    extents: dict[str, tuple[float, float]] = {}
    for shard in range(signals.shards):
        table = signals.table(shard)
        for name in names:
            values = _measured(table, name)
            if len(values):
                low, high = extents.get(name, (math.inf, -math.inf))
                extents[name] = (min(low, float(values.min())), max(high, float(values.max())))
    return {name: extents[name] for name in names if name in extents}


def _measured(table: pa.Table, name: str) -> NDArray[np.float64]:
    values = _values(table, name)
    return values[~np.isnan(values)]


def _values(table: pa.Table, name: str) -> NDArray[np.float64]:
    return table[name].combine_chunks().cast(pa.float64()).to_numpy(zero_copy_only=False)


def bin_edges(name: str, low: float, high: float, thresholds: Sequence[float]) -> NDArray[np.float64]:
    """Choose the edges of a histogram (bins + 1,) so that the thresholds stand well inside it.

    Counts of a wide span get bins that widen; fractions end at 1; a long tail is left to the last bin.
    """
    low = min([low, *thresholds, 0.0])
    if name in WHOLE:
        top = max([high, *(value for value in thresholds if value <= 100 * max(high, 1.0))])
        if top <= LARGE_COUNT:
            return np.arange(low, top + 2)
        return np.unique(np.round(np.expm1(np.linspace(math.log1p(low), math.log1p(top + 1), LOG_BINS + 1))))
    top = max(min(high, 1.6 * max(thresholds)), 1.1 * max(thresholds)) if thresholds else high
    if name.endswith(("_fraction", "_score")):
        top = min(top, 1.0)
    return np.linspace(low, top if top > low else low + 1.0, BINS + 1)


def _is_logarithmic(name: str, top: float) -> bool:
    return name in WHOLE and top > LARGE_COUNT + 1


def _count(table: pa.Table, config: FilterConfig, tallies: Mapping[str, _Tally]) -> None:
    """Add a file's documents to the tallies: all that were measured, and those beyond a threshold of their language."""
    failing: dict[str, NDArray[np.bool_]] = {}
    for evaluation in evaluate(config, table):
        failing[evaluation.signal] = failing.get(evaluation.signal, np.False_) | evaluation.failed
    for name, tally in tallies.items():
        values = _values(table, name)
        measured = ~np.isnan(values)
        inside = np.clip(values, tally.edges[0], np.nextafter(tally.edges[-1], tally.edges[0]))
        tally.counts += np.histogram(inside[measured], tally.edges)[0]
        tally.failing += np.histogram(inside[failing[name] & measured], tally.edges)[0]
        tally.measured += int(measured.sum())
