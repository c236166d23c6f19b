"""Scores of likelihood tasks, from the answers to their items."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from training.suites.items import Item
from training.suites.likelihood import Answer
from training.suites.statistics import Floats, bootstrap_error, calibration
from training.suites.task import Task


@dataclass
class Measured:
    """The scores of one task on one model."""

    metrics: dict[str, float]
    errors: dict[str, float | None]
    """Bootstrap standard errors of the metrics that have one."""
    items: int
    baseline: float
    groups: list[list[Any]] = field(default_factory=list)
    """Rows of (group, metric, value, items)."""
    bins: list[dict[str, Any]] = field(default_factory=list)
    """Of the calibration error."""
    records: list[dict[str, Any]] = field(default_factory=list)
    """What became of each item."""


@dataclass(frozen=True)
class Resampling:
    """How standard errors and calibration are computed: `SuiteConfig`."""

    resamples: int = 1000
    seed: int = 1
    bins: int = 10


def measure_choices(
    task: Task, items: Sequence[Item], answers: Sequence[Sequence[Answer]], how: Resampling
) -> Measured:
    """Accuracy by four readings of which option is the likeliest.

    accuracy: by the sum of log-probabilities; accuracy_normalized: by the sum over the answer's characters;
    accuracy_bytes: over its UTF-8 bytes; accuracy_tokens: over its tokens. Where options differ in their context alone
    (contexts), or are whole sentences (pairs), only the first and the last are told. Beside them, of
    choices and contexts, the calibration of the likeliest option's share of the options' probability, and its Brier
    score (the squared distance from the right option). At a tie the first option is taken, as lm-evaluation-harness
    does; but of pairs, where the right one always is the first, each has half of the point.
    """
    plain = task.form == "choices"
    taken: dict[str, list[int]] = {"accuracy": [], "accuracy_tokens": []}
    if plain:
        taken |= {"accuracy_normalized": [], "accuracy_bytes": []}
    shares = []
    for item, options in zip(items, answers, strict=True):
        sums = np.array([answer.log_probability for answer in options])
        taken["accuracy"].append(int(sums.argmax()))
        taken["accuracy_tokens"].append(int((sums / [answer.tokens for answer in options]).argmax()))
        if plain:
            taken["accuracy_normalized"].append(int((sums / [len(text) for text in item.answers]).argmax()))
            taken["accuracy_bytes"].append(int((sums / [len(text.encode()) for text in item.answers]).argmax()))
        shares.append(np.exp(sums - np.logaddexp.reduce(sums)))
    gold = [item.gold for item in items]
    right = {name: [float(a == b) for a, b in zip(places, gold, strict=True)] for name, places in taken.items()}
    if task.form == "pairs":
        ties = [options[0].log_probability == options[1].log_probability for options in answers]
        right["accuracy"] = [0.5 if tie else value for tie, value in zip(ties, right["accuracy"], strict=True)]
    result = _averaged(task, items, right, how)
    result.baseline = float(np.mean([1 / len(item.options) for item in items]))
    if task.form != "pairs":
        result.metrics["calibration_error"], result.bins = calibration(
            [float(share.max()) for share in shares], right["accuracy"], how.bins
        )
        brier = [_brier(share, item.gold) for share, item in zip(shares, items, strict=True)]
        result.metrics["brier"] = float(np.mean(brier))
    for number, (item, options) in enumerate(zip(items, answers, strict=True)):
        record = {"item": number, "gold": item.gold, **{name: places[number] for name, places in taken.items()}}
        result.records.append({**record, "log_probabilities": [answer.log_probability for answer in options]})
    return result


def measure_continuations(
    task: Task, items: Sequence[Item], answers: Sequence[Sequence[Answer]], how: Resampling
) -> Measured:
    """accuracy (the model itself would write all tokens of the continuation) and perplexity of whole continuations.

    The perplexity is exp of the mean negative log-probability of a continuation, as LAMBADA's is reckoned.
    """
    only = [options[0] for options in answers]
    result = _averaged(task, items, {"accuracy": [float(one.matched == one.tokens) for one in only]}, how)
    result.metrics["perplexity"] = math.exp(min(700.0, -float(np.mean([one.log_probability for one in only]))))
    for number, one in enumerate(only):
        found = {"item": number, "accuracy": int(one.matched == one.tokens), "log_probability": one.log_probability}
        result.records.append(found)
    return result


def _brier(shares: Floats, gold: int) -> float:
    """Squared distance of the options' shares from the right option (Brier 1950)."""
    return float(((shares - np.eye(len(shares))[gold]) ** 2).sum())


def _averaged(task: Task, items: Sequence[Item], right: dict[str, list[float]], how: Resampling) -> Measured:
    """Means, their errors, and where the task has groups those of each, and the mean over them."""
    metrics = {name: float(np.mean(values)) for name, values in right.items()}
    errors = {name: bootstrap_error(values, how.resamples, how.seed) for name, values in right.items()}
    result = Measured(metrics, errors, len(items), 0.0)
    names = sorted({item.group for item in items})
    if task.group and len(names) > 1:
        main = task.main_metric
        by_group: dict[str, list[float]] = {name: [] for name in names}
        for item, value in zip(items, right[main], strict=True):
            by_group[item.group].append(value)
        result.groups = [[name, main, float(np.mean(values)), len(values)] for name, values in by_group.items()]
        result.metrics[f"{main}_group_mean"] = float(np.mean([row[2] for row in result.groups]))
    return result
