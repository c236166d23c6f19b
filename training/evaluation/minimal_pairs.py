"""Zero-shot minimal pairs in the manner of BLiMP (Warstadt et al. 2020): which of two sentences is likelier?

A pair is won when the acceptable sentence has the higher total log-probability, and half won at a tie. Our own pairs
come from templates (`grammar/*.json`); any local JSONL file of BLiMP's form works as well.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.evaluation.lines import read_lines, set_name

CHANCE = 0.5

Encoder = Callable[[list[str]], list[NDArray[np.int64]]]
Scorer = Callable[[list[NDArray[np.int64]]], Sequence[NDArray[np.floating]]]


@dataclass(frozen=True)
class Pair:
    """Two sentences that differ in one point of grammar."""

    good: str
    bad: str
    phenomenon: str
    language: str


def read_pairs(path: str | Path, language: str = "en", limit: int | None = None) -> list[Pair]:
    """Pairs of a JSONL file (plain or .gz) with `sentence_good` and `sentence_bad` on each line.

    The phenomenon is the line's `UID` (or `phenomenon`, or else the file's name), the language its `language` (or else
    the argument). `limit` keeps the first ones of each phenomenon. Raises ValueError naming the file and the line of a
    broken one.
    """
    path = Path(path)
    pairs: list[Pair] = []
    kept: Counter[tuple[str, str]] = Counter()
    for number, line in read_lines(path):
        try:
            pair = _parse(line, set_name(path), language)
        except ValueError as error:
            raise ValueError(f"{path}: line {number}: {error}") from None
        group = (pair.language, pair.phenomenon)
        kept[group] += 1
        if limit is None or kept[group] <= limit:
            pairs.append(pair)
    if not pairs:
        raise ValueError(f"{path}: holds no pair")
    return pairs


def _parse(line: str, phenomenon: str, language: str) -> Pair:
    row = json.loads(line)
    if not isinstance(row, dict):
        raise ValueError("expected a JSON object")
    for name in ("sentence_good", "sentence_bad"):
        if not (isinstance(row.get(name), str) and row[name]):
            raise ValueError(f"{name} must be a string with text in it, got {row.get(name)!r}")
    return Pair(
        row["sentence_good"],
        row["sentence_bad"],
        str(row.get("UID") or row.get("phenomenon") or phenomenon),
        str(row.get("language") or language),
    )


def evaluate_pairs(pairs: Sequence[Pair], encode: Encoder, scorer: Scorer) -> dict[str, Any]:
    """Accuracy over all pairs, by language and by phenomenon.

    encode: sentences -> token ids; scorer: token ids -> log-probability of each token. Returns {"overall": facts,
    "languages": {language: facts}, "phenomena": {"language/phenomenon": facts}} with `accuracy_facts`, names in order.
    Raises ValueError for a sentence that has no token.
    """
    sentences = list(dict.fromkeys(sentence for pair in pairs for sentence in (pair.good, pair.bad)))
    ids = encode(sentences)
    for sentence, tokens in zip(sentences, ids, strict=True):
        if len(tokens) == 0:
            raise ValueError(f"the tokenizer finds no token in {sentence!r}")
    totals = [float(log.astype(np.float64).sum()) for log in scorer(ids)]
    total = dict(zip(sentences, totals, strict=True))
    wins = np.array([win(total[pair.good], total[pair.bad]) for pair in pairs])
    return {
        "overall": accuracy_facts(wins),
        "languages": _by(wins, [pair.language for pair in pairs]),
        "phenomena": _by(wins, [f"{pair.language}/{pair.phenomenon}" for pair in pairs]),
    }


def win(good: float, bad: float) -> float:
    """1 where the good sentence is likelier, one half at a tie, else 0."""
    return 1.0 if good > bad else 0.5 if good == bad else 0.0


def accuracy_facts(wins: NDArray[np.float64]) -> dict[str, float | int]:
    """accuracy, its standard error sqrt(p (1 - p) / n), the number of pairs, and what guessing reaches."""
    accuracy = float(wins.mean())
    error = math.sqrt(accuracy * (1 - accuracy) / len(wins))
    return {"accuracy": accuracy, "standard_error": error, "pairs": len(wins), "chance": CHANCE}


def _by(wins: NDArray[np.float64], names: Iterable[str]) -> dict[str, dict[str, float | int]]:
    groups: dict[str, list[float]] = {}
    for name, value in zip(names, wins.tolist(), strict=True):
        groups.setdefault(name, []).append(value)
    return {name: accuracy_facts(np.array(groups[name])) for name in sorted(groups)}
