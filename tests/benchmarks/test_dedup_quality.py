from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.dedup_quality import Labels, components, exact_sets, gram_similarities, scores

NAMES = "abcdefghij"


@st.composite
def partitions(draw: st.DrawFn) -> list[list[str]]:
    groups = draw(st.lists(st.integers(0, 4), min_size=len(NAMES), max_size=len(NAMES)))
    return [[name for name, group in zip(NAMES, groups, strict=True) if group == number] for number in range(5)]


@given(partitions(), st.sets(st.sampled_from(list(combinations(NAMES, 2))), min_size=1))
def test_scores_are_those_of_enumerated_pairs(groups: list[list[str]], labelled: set[tuple[str, str]]) -> None:
    clusters = [group for group in groups if len(group) > 1]
    predicted = {pair for group in clusters for pair in combinations(group, 2)}
    correct = len(predicted & labelled)
    found = scores(Labels("", frozenset(labelled), len(NAMES), kinds={"all": sorted(labelled)}), clusters)
    assert found["precision"] == (correct / len(predicted) if predicted else 1)
    assert found["recall"] == found["recall, all"] == correct / len(labelled)
    assert found["f1"] == pytest.approx(2 * correct / (len(predicted) + len(labelled)))

    def twins(pairs: set[tuple[str, str]], name: str) -> set[str]:
        return {other for pair in pairs if name in pair for other in pair}

    same = sum(twins(predicted, name) == twins(labelled, name) for name in NAMES)
    assert found["exact sets"] == same / len(NAMES)


def test_documents_without_twin_and_prediction_are_right() -> None:
    labels = Labels("", frozenset({("a", "b")}), 4)
    assert exact_sets(labels, []) == 0.5
    assert exact_sets(labels, [["a", "b"]]) == 1
    assert exact_sets(labels, [["a", "b", "c"]]) == 0.25


def test_pages_of_templates_in_clusters_are_counted() -> None:
    labels = Labels("", frozenset({("a", "b")}), 6, templates={"templated 50%": ["c", "d", "e", "f"]})
    assert scores(labels, [["a", "b"], ["c", "d"]])["taken for duplicates, templated 50%"] == 0.5


def test_components_join_chains() -> None:
    found = components([["a", "b"], ["c", "d"], ["b", "c"], ["e", "e"], ["f", "g"], ["f", "h"]])
    assert sorted(map(sorted, found)) == [["a", "b", "c", "d"], ["f", "g", "h"]]


@given(st.lists(st.text("abäß 語\n", max_size=30), min_size=2, max_size=6))
def test_similarities_of_all_pairs_are_those_of_sets(texts: list[str]) -> None:
    plain = [" ".join(text.lower().split()) for text in texts]
    sets = [{text[at : at + 5] for at in range(len(text) - 4)} for text in plain]
    expected = {}
    for left, right in combinations(range(len(texts)), 2):
        union = sets[left] | sets[right]
        if union and len(sets[left] & sets[right]) / len(union) >= 0.3:
            expected[f"t{left}", f"t{right}"] = len(sets[left] & sets[right]) / len(union)
    rows = [(f"t{number}", text) for number, text in enumerate(texts)]
    assert gram_similarities(rows, 0.3) == pytest.approx(expected)
