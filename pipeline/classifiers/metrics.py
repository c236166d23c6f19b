"""How well a score tells positive documents from negative ones: at every threshold, and at those of a table."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

CURVE_SCHEMA = pa.schema(
    [
        pa.field("threshold", pa.float64(), nullable=False),
        pa.field("precision", pa.float64()),
        pa.field("recall", pa.float64(), nullable=False),
        pa.field("f1", pa.float64(), nullable=False),
        pa.field("false_positive_rate", pa.float64(), nullable=False),
        pa.field("selected", pa.int64(), nullable=False),
        pa.field("selected_fraction", pa.float64(), nullable=False),
    ]
)
"""A row for each threshold. `selected` are the documents that score at least it; precision is null where none does."""


@dataclass(frozen=True)
class Ranking:
    """Documents cut at each distinct score, the highest first."""

    thresholds: NDArray[np.float64]  # (cuts,)
    true_positives: NDArray[np.int64]  # (cuts,) positives that score at least the threshold
    false_positives: NDArray[np.int64]  # (cuts,)
    positives: int
    negatives: int


def rank(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> Ranking:
    """Sort documents by their score.

    Raises ValueError unless there are documents of both classes and every score is finite.
    """
    if not positive.any() or positive.all():
        raise ValueError("a ranking needs positive and negative documents")
    if not np.isfinite(scores).all():
        raise ValueError("there are scores that are not numbers")
    order = np.argsort(-scores, kind="stable")
    ordered, hits = scores[order], positive[order]
    last = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), len(ordered) - 1)
    found = np.cumsum(hits)[last]
    return Ranking(ordered[last], found, last + 1 - found, int(hits.sum()), int((~hits).sum()))


def roc_auc(ranking: Ranking) -> float:
    """Chance that a positive scores above a negative, ties counted as half: the area under the ROC curve.

    Source: Fawcett 2006, "An introduction to ROC analysis", section 7.
    """
    hits = np.concatenate([[0], ranking.true_positives]) / ranking.positives
    alarms = np.concatenate([[0], ranking.false_positives]) / ranking.negatives
    return float(np.trapezoid(hits, alarms))


def average_precision(ranking: Ranking) -> float:
    """Mean precision at each positive found, without interpolation: the sum of precision times the step in recall."""
    recall = ranking.true_positives / ranking.positives
    precision = ranking.true_positives / (ranking.true_positives + ranking.false_positives)
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def curve(ranking: Ranking, thresholds: Sequence[float]) -> pa.Table:
    """Precision, recall and F1 at each threshold, as CURVE_SCHEMA says."""
    # How many cuts lie at or above a threshold; the counts of the last of them hold for it.
    above = np.searchsorted(-ranking.thresholds, -np.asarray(thresholds, np.float64), side="right")
    hits = np.concatenate([[0], ranking.true_positives])[above]
    alarms = np.concatenate([[0], ranking.false_positives])[above]
    selected = hits + alarms
    documents = ranking.positives + ranking.negatives
    precision = np.divide(hits, selected, out=np.full(len(hits), np.nan), where=selected > 0)
    columns = [
        pa.array(np.asarray(thresholds, np.float64)),
        pa.array(precision, pa.float64(), from_pandas=True),
        pa.array(hits / ranking.positives),
        pa.array(2 * hits / (ranking.positives + selected)),
        pa.array(alarms / ranking.negatives),
        pa.array(selected, pa.int64()),
        pa.array(selected / documents),
    ]
    return pa.table(columns, schema=CURVE_SCHEMA)


def summary(scores: NDArray[np.float64], positive: NDArray[np.bool_], threshold: float = 0.5) -> dict[str, float]:
    """Precision, recall, F1 and accuracy at one threshold, ROC-AUC and average precision. Raises as `rank` does.

    Precision is 0 where no document scores at least the threshold.
    """
    ranking = rank(scores, positive)
    (at,) = curve(ranking, [threshold]).to_pylist()
    return {
        "precision": at["precision"] or 0.0,
        "recall": at["recall"],
        "f1": at["f1"],
        "accuracy": float(np.mean((scores >= threshold) == positive)),
        "roc_auc": roc_auc(ranking),
        "average_precision": average_precision(ranking),
    }
