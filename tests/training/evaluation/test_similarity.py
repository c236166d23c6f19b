from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.evaluation.similarity import alignment, judge_similarity, ranks, read_scored_pairs, spearman, uniformity


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30))
def test_ranks_are_those_of_counting(values: list[int]) -> None:
    by_counting = [
        sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2 for value in values
    ]
    np.testing.assert_allclose(ranks(np.array(values, dtype=float)), by_counting)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=3, max_size=40))
def test_spearman_is_that_of_scipy(pairs: list[tuple[int, int]]) -> None:
    stats = pytest.importorskip("scipy.stats")
    a, b = np.array(pairs, dtype=float).T
    if len(set(a)) > 1 and len(set(b)) > 1:
        assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)
    else:
        assert spearman(a, b) == 0.0


def test_alignment_and_uniformity_follow_their_definitions() -> None:
    vectors = np.random.default_rng(0).normal(size=(12, 4))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    distances = [[sum((a - b) ** 2) for b in vectors] for a in vectors]
    assert alignment(vectors[:6], vectors[6:]) == pytest.approx(np.mean([distances[i][6 + i] for i in range(6)]))
    kernel = [math.exp(-2 * distances[i][j]) for i in range(12) for j in range(12) if i != j]
    assert uniformity(vectors) == pytest.approx(math.log(np.mean(kernel)))


def test_vectors_that_follow_the_scores_correlate(tmp_path: Path) -> None:
    path = tmp_path / "sts-dev.csv"
    lines = [f"main\tMSRvid\t2012test\t{i}\t{5 - i}.0\tsentence 0\tsentence {i}" for i in range(1, 6)]
    path.write_text("\n".join(lines) + "\n")
    pairs = read_scored_pairs(path)
    assert pairs[1] == ("sentence 0", "sentence 2", 3.0)

    def angle(texts: list[str]) -> np.ndarray:
        numbers = np.array([int(text.split()[1]) for text in texts]) / 4
        return np.stack([np.cos(numbers), np.sin(numbers)], 1)

    facts = judge_similarity(pairs, angle)
    assert facts["spearman"] == pytest.approx(1.0)
    assert facts["alignment"] == pytest.approx(2 - 2 * math.cos(1 / 4))
    assert judge_similarity(pairs, lambda texts: -angle(texts)[:, ::-1] * 0 + 1.0)["spearman"] == 0.0


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"sentence1": "a", "sentence2": "b", "score": 1}\n{"sentence1": "a"}\n')
    with pytest.raises(ValueError, match=r"pairs.jsonl: line 2: no pair of sentences with a score"):
        read_scored_pairs(path)
