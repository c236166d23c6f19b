"""The numbers that tasks are judged by, as GLUE defines them (Wang et al. 2019, section 3), and SQuAD, and CoNLL.

N examples, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.evaluation.answers import normalized, overlap, words
from training.evaluation.similarity import spearman

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def accuracy(predicted_N: Ints, right_N: Ints) -> float:
    """Share of the examples whose class was found."""
    return float(np.mean(np.asarray(predicted_N) == np.asarray(right_N)))


def f1(predicted_N: Ints, right_N: Ints, positive: int = 1) -> float:
    """Harmonic mean of precision and recall of one class; 0 where it occurs on neither side."""
    predicted, right = np.asarray(predicted_N) == positive, np.asarray(right_N) == positive
    total = int(predicted.sum() + right.sum())
    return 2.0 * int((predicted & right).sum()) / total if total else 0.0


def f1_macro(predicted_N: Ints, right_N: Ints) -> float:
    """The mean of the F1 of all classes that occur on either side."""
    classes = np.union1d(predicted_N, right_N)
    return float(np.mean([f1(predicted_N, right_N, int(one)) for one in classes]))


def matthews(predicted_N: Ints, right_N: Ints, classes: int) -> float:
    """Matthews' correlation of classes, as Gorodkin (2004, R_K) defines it for more than two; 0 where one is constant.

    For two it is that of Matthews (1975).
    """
    counts_CC = np.zeros((classes, classes))
    np.add.at(counts_CC, (np.asarray(right_N), np.asarray(predicted_N)), 1.0)
    right_C, predicted_C, total = counts_CC.sum(1), counts_CC.sum(0), counts_CC.sum()
    covariance = counts_CC.trace() * total - right_C @ predicted_C
    scale = np.sqrt((total**2 - predicted_C @ predicted_C) * (total**2 - right_C @ right_C))
    return float(covariance / scale) if scale else 0.0


def pearson(first_N: Floats, second_N: Floats) -> float:
    """Linear correlation; 0 where a side is constant."""
    if np.ptp(first_N) == 0 or np.ptp(second_N) == 0:
        return 0.0  # not left to the difference from the mean, which may be rounded
    a, b = (np.asarray(side, dtype=np.float64) - np.mean(side) for side in (first_N, second_N))
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale else 0.0


def correlations(predicted_N: Floats, right_N: Floats) -> dict[str, float]:
    """pearson and spearman."""
    predicted, right = np.asarray(predicted_N, dtype=np.float64), np.asarray(right_N, dtype=np.float64)
    return {"pearson": pearson(predicted, right), "spearman": spearman(predicted, right)}


class Entity(NamedTuple):
    """A stretch of tags of one type, its end exclusive."""

    kind: str
    begin: int
    end: int


def entities(tags: Sequence[str]) -> list[Entity]:
    """The entities of BIO tags (`B-PER`, `I-PER`, `O`; IO and BIOES are read alike), as conlleval finds them.

    An I that continues nothing of its type begins an entity.
    """
    found: list[Entity] = []
    kind, begin = "", 0
    for place, tag in enumerate([*tags, "O"]):
        prefix, _, mine = tag.partition("-")
        goes_on = prefix in ("I", "E") and mine == kind and bool(kind)
        if goes_on:
            if prefix == "E":
                found.append(Entity(kind, begin, place + 1))
                kind = ""
            continue
        if kind:
            found.append(Entity(kind, begin, place))
        kind, begin = ("", 0) if prefix == "O" else (mine or prefix, place)
        if prefix == "S":
            found.append(Entity(kind, place, place + 1))
            kind = ""
    return found


def entity_scores(predicted: Sequence[Sequence[str]], right: Sequence[Sequence[str]]) -> dict[str, float]:
    """entity_f1, entity_precision and entity_recall over all sentences (Tjong Kim Sang & De Meulder 2003, section 4);
    accuracy is that of the tags."""
    both = found = wanted = 0
    for ours, theirs in zip(predicted, right, strict=True):
        mine, true = set(entities(ours)), set(entities(theirs))
        both, found, wanted = both + len(mine & true), found + len(mine), wanted + len(true)
    pairs = [(a, b) for ours, theirs in zip(predicted, right, strict=True) for a, b in zip(ours, theirs, strict=True)]
    return {
        "entity_f1": 2 * both / (found + wanted) if found + wanted else 0.0,
        "entity_precision": both / found if found else 0.0,
        "entity_recall": both / wanted if wanted else 0.0,
        "accuracy": sum(a == b for a, b in pairs) / max(1, len(pairs)),
    }


def answer_scores(predicted: Sequence[str], right: Sequence[Sequence[str]]) -> dict[str, float]:
    """exact_match and answer_f1 in [0, 1]: of each question the best over its answers (Rajpurkar et al. 2016, section
    6.1); a question without answers is right where the prediction is empty (2018)."""
    exact, common = [], []
    for text, answers in zip(predicted, right, strict=True):
        mine, wanted = normalized(text), [one for one in map(normalized, answers) if one] or [""]
        exact.append(float(mine in wanted))
        common.append(max(overlap(words(mine), words(one)) for one in wanted))
    return {"exact_match": float(np.mean(exact)), "answer_f1": float(np.mean(common))}
