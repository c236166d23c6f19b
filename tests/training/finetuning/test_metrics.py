"""Metrics beside scipy's, scikit-learn's and plain definitions."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from training.evaluation.answers import normalized
from training.finetuning import metrics

CLASSES = st.integers(2, 4).flatmap(
    lambda classes: st.tuples(
        st.just(classes), st.lists(st.tuples(*[st.integers(0, classes - 1)] * 2), min_size=2, max_size=40)
    )
)


@settings(max_examples=60, deadline=None)
@given(CLASSES)
def test_classes_as_scikit_learn_judges_them(drawn: tuple[int, list[tuple[int, int]]]) -> None:
    classes, pairs = drawn
    predicted, right = (np.array(side) for side in zip(*pairs, strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert metrics.accuracy(predicted, right) == sklearn.metrics.accuracy_score(right, predicted)
        wanted = sklearn.metrics.f1_score(right, predicted, labels=[1], average="macro", zero_division=0)
        assert metrics.f1(predicted, right) == pytest.approx(wanted)
        wanted = sklearn.metrics.f1_score(right, predicted, average="macro", zero_division=0)
        assert metrics.f1_macro(predicted, right) == pytest.approx(wanted)
        wanted = sklearn.metrics.matthews_corrcoef(right, predicted)
    assert metrics.matthews(predicted, right, classes) == pytest.approx(wanted, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 50)), min_size=3, max_size=40))
def test_correlations_as_scipy_has_them(pairs: list[tuple[int, int]]) -> None:
    predicted, right = (np.array(side) / 10 for side in zip(*pairs, strict=True))
    found = metrics.correlations(predicted, right)
    if np.ptp(predicted) == 0 or np.ptp(right) == 0:
        assert found == {"pearson": 0.0, "spearman": 0.0}
        return
    assert found["pearson"] == pytest.approx(scipy.stats.pearsonr(predicted, right).statistic)
    assert found["spearman"] == pytest.approx(scipy.stats.spearmanr(predicted, right).statistic)


def entities_by_pattern(tags: list[str]) -> set[tuple[str, int, int]]:
    """BIO entities by a regular expression over one letter a tag."""
    found = set()
    for kind in {tag[2:] for tag in tags if tag != "O"}:
        letters = "".join(tag[0] if tag[2:] == kind else "O" for tag in tags)
        found |= {(kind, one.start(), one.end()) for one in re.finditer("BI*|I+", letters)}
    return found


@settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from(["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]), max_size=12))
def test_entities_are_those_of_a_pattern(tags: list[str]) -> None:
    assert set(metrics.entities(tags)) == entities_by_pattern(tags)


def test_entity_scores_count_whole_entities() -> None:
    right = [["B-PER", "I-PER", "O", "B-LOC"], ["O", "S-LOC"]]
    predicted = [["B-PER", "O", "O", "B-LOC"], ["B-LOC", "O"]]
    found = metrics.entity_scores(predicted, right)
    # Three found, three there, one of them the same; three of six tags.
    assert found["entity_f1"] == found["entity_precision"] == found["entity_recall"] == pytest.approx(1 / 3)
    assert found["accuracy"] == 0.5
    assert metrics.entities(["B-X", "E-X", "S-Y"]) == [("X", 0, 2), ("Y", 2, 3)]


def test_answers_as_squads_script_compares_them() -> None:
    assert normalized("The  Eiffel-Tower, (an) icon!") == "eiffeltower icon"
    found = metrics.answer_scores(
        ["the cat sat", "Paris", "", "x"], [["cat sat down", "a dog"], ["paris.", "London"], [], []]
    )
    # Two words of two and of three: F1 = 2 * 2 / (2 + 3); then right, right and wrong.
    assert found == {"exact_match": 0.5, "answer_f1": pytest.approx((0.8 + 1 + 1 + 0) / 4)}
