from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.evaluation.ngram import NgramModel

Gram = tuple[int, ...]


class BruteForce:
    """Interpolated modified Kneser-Ney with dictionaries, straight from Chen & Goodman 1998."""

    def __init__(self, segments: Sequence[Sequence[int]], vocabulary: int, order: int) -> None:
        self.vocabulary = vocabulary
        self.order = order
        self.counts: list[Counter[Gram]] = []
        for n in range(1, order + 1):
            if n == order:
                grams = [tuple(s[i : i + n]) for s in segments for i in range(len(s) - n + 1)]
                self.counts.append(Counter(grams))
            else:
                longer = {tuple(s[i : i + n + 1]) for s in segments for i in range(len(s) - n)}
                self.counts.append(Counter(gram[1:] for gram in longer))
        self.discounts = [self._discounts(counts) for counts in self.counts]
        self.following: list[dict[Gram, list[int]]] = []
        for counts in self.counts:
            following = defaultdict(list)
            for gram, count in counts.items():
                following[gram[:-1]].append(count)
            self.following.append(following)

    @staticmethod
    def _discounts(counts: Counter[Gram]) -> tuple[float, float, float]:
        n1, n2, n3, n4 = (sum(count == k for count in counts.values()) for k in (1, 2, 3, 4))
        if n1 and n2 and n3 and n4:
            y = n1 / (n1 + 2 * n2)
            d1, d2, d3 = 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3
            if 0 < d1 <= 1 and 0 < d2 <= 2 and 0 < d3 <= 3:
                return d1, d2, d3
        return 0.5, 1.0, 1.5

    def probability(self, token: int, history: Gram) -> float:
        return self._probability(token, history[-(self.order - 1) :] if self.order > 1 else ())

    def _probability(self, token: int, history: Gram) -> float:
        shorter = self._probability(token, history[1:]) if history else 1 / self.vocabulary
        level = len(history)
        following = self.following[level].get(history, [])
        if not following:
            return shorter
        count = self.counts[level][(*history, token)]
        d = self.discounts[level]
        discount = d[min(count, 3) - 1] if count else 0.0
        freed = sum(d[min(c, 3) - 1] for c in following)
        return (count - discount + freed * shorter) / sum(following)


streams = st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=25), min_size=1, max_size=3)


@settings(max_examples=150, deadline=None)
@given(streams, st.lists(st.integers(0, 5), min_size=1, max_size=12), st.integers(1, 4))
def test_probabilities_equal_those_of_the_brute_force_model(
    segments: list[list[int]], tokens: list[int], order: int
) -> None:
    model = NgramModel([np.array(s, dtype=np.uint16) for s in segments], 6, order)
    order = min(order, max(map(len, segments)))
    brute = BruteForce(segments, 6, order)
    expected = [brute.probability(token, (0, *tokens[:i])) for i, token in enumerate(tokens)]
    np.testing.assert_allclose(np.exp(model.log_probabilities(np.array(tokens), [0])), expected, rtol=1e-10)


def _zipfian(length: int, vocabulary: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    ids = np.minimum(random.zipf(1.3, length) - 1, vocabulary - 1)
    ids[1::2] = (ids[::2][: len(ids[1::2])] * 7 + 1) % vocabulary  # so that there is something to predict
    return ids.astype(np.uint16)


def test_estimated_discounts_agree_with_the_brute_force_model() -> None:
    train, held_out = _zipfian(6000, 3000), _zipfian(200, 3000, seed=1)
    model, brute = NgramModel([train], 3000, 3), BruteForce([train.tolist()], 3000, 3)
    assert (0.5, 1.0, 1.5) not in brute.discounts
    ids = held_out.tolist()
    expected = [math.log(brute.probability(token, tuple(ids[:i]))) for i, token in enumerate(ids)]
    np.testing.assert_allclose(model.log_probabilities(held_out), expected, rtol=1e-10)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_the_probabilities_after_any_history_sum_to_one(order: int) -> None:
    vocabulary = 60
    train = _zipfian(3000, vocabulary - 5)  # five tokens never occur
    model = NgramModel([train[:1000], train[1000:]], vocabulary, order)
    for history in ([], [0], train[40:44].tolist(), [59, 58, 57], [int(train[7]), 59, int(train[9])]):
        total = sum(
            float(np.exp(model.log_probabilities(np.array([token]), history)[0])) for token in range(vocabulary)
        )
        assert total == pytest.approx(1.0, abs=1e-9)


def test_a_higher_order_predicts_held_out_text_better() -> None:
    train, held_out = _zipfian(20_000, 200), _zipfian(2000, 200, seed=1)
    losses = [-NgramModel([train], 200, order).log_probabilities(held_out).mean() for order in (1, 2)]
    assert losses[1] < losses[0] - 0.5
    assert losses[0] < math.log(200)


def test_a_vocabulary_and_an_order_beyond_64_bit_keys_work() -> None:
    train = _zipfian(500, 300).astype(np.uint32) + 100_000
    model = NgramModel([train], 150_000, 6)
    assert np.isfinite(model.log_probabilities(train)).all()
    assert -model.log_probabilities(train).mean() < 4


@pytest.mark.parametrize(
    ("segments", "vocabulary", "order", "message"),
    [
        ([np.array([1])], 4, 0, "order is 0"),
        ([np.array([1])], 0, 2, "vocabulary is 0"),
        ([], 4, 2, "no tokens"),
        ([np.array([], dtype=np.uint16)], 4, 2, "no tokens"),
        ([np.array([1, 4])], 4, 2, "outside the vocabulary"),
        ([np.array([-1, 2])], 4, 2, "outside the vocabulary"),
    ],
)
def test_wrong_arguments_are_refused(segments: list[np.ndarray], vocabulary: int, order: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NgramModel(segments, vocabulary, order)
