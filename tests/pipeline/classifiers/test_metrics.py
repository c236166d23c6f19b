"""Metrics against scikit-learn's, and a brute-force count."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.classifiers.metrics import average_precision, curve, rank, roc_auc, summary

RANKED = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0]) | st.floats(0, 1), st.booleans()), max_size=60
)


@given(RANKED)
def test_areas_and_scores_are_those_of_scikit_learn(pairs: list[tuple[float, bool]]):
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    scores, positive = np.array([score for score, _ in pairs], float), np.array([hit for _, hit in pairs], bool)
    assume(len(pairs) and positive.any() and not positive.all())
    ranking = rank(scores, positive)
    assert roc_auc(ranking) == pytest.approx(metrics.roc_auc_score(positive, scores), abs=1e-12)
    assert average_precision(ranking) == pytest.approx(metrics.average_precision_score(positive, scores), abs=1e-12)
    found = summary(scores, positive)
    predicted = scores >= 0.5
    assert found["precision"] == pytest.approx(metrics.precision_score(positive, predicted, zero_division=0))
    assert found["recall"] == pytest.approx(metrics.recall_score(positive, predicted))
    assert found["f1"] == pytest.approx(metrics.f1_score(positive, predicted))
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(positive, predicted))


@given(RANKED, st.lists(st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.75, 1.0]), min_size=1, max_size=6))
def test_the_table_counts_what_lies_at_or_above_each_threshold(
    pairs: list[tuple[float, bool]], thresholds: list[float]
):
    scores, positive = np.array([score for score, _ in pairs], float), np.array([hit for _, hit in pairs], bool)
    assume(len(pairs) and positive.any() and not positive.all())
    for row in curve(rank(scores, positive), thresholds).to_pylist():
        selected = scores >= row["threshold"]
        hits = int((selected & positive).sum())
        assert row["selected"] == selected.sum()
        assert row["selected_fraction"] == pytest.approx(selected.mean())
        assert row["precision"] == (pytest.approx(hits / selected.sum()) if selected.any() else None)
        assert row["recall"] == pytest.approx(hits / positive.sum())
        assert row["false_positive_rate"] == pytest.approx((selected & ~positive).sum() / (~positive).sum())


def test_one_class_or_a_score_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="positive and negative"):
        rank(np.array([0.1, 0.2]), np.array([True, True]))
    with pytest.raises(ValueError, match="not numbers"):
        rank(np.array([0.1, np.nan]), np.array([True, False]))
