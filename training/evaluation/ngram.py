"""Count models of the same tokens, as baselines for a neural one: unigram and interpolated modified Kneser-Ney.

Source: Chen & Goodman 1998, "An Empirical Study of Smoothing Techniques for Language Modeling" (TR-10-98), section 3.
Where a small corpus gives no estimate of the discounts, they are those of KenLM's `--discount_fallback` (Heafield et
al. 2013).

The distinct n-grams of each order are numbered in the order of their keys, and the key of an n-gram is the number of
its context (its first n - 1 tokens) times the vocabulary plus its last token. So keys stay small at any order, and
what belongs to a context is an array indexed by its number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

DISCOUNT_FALLBACK = (0.5, 1.0, 1.5)
_UNSEEN = -1


@dataclass(frozen=True)
class _Level:
    """The n-grams of one order, by number, and the contexts that they follow, by theirs."""

    keys: Ints  # (n-grams,) sorted
    discounted: Floats  # (n-grams,) count less its discount, over the total of the context
    backoff: Floats  # (contexts,) the mass that the discounts freed: the weight of the shorter context


class NgramModel:
    """An interpolated modified Kneser-Ney model; order 1 is a unigram model interpolated with the uniform one.

    Attributes: order, vocabulary, tokens (how many were counted), ngrams (how many distinct ones, by order).
    """

    def __init__(self, segments: Sequence[NDArray[np.integer]], vocabulary: int, order: int = 3) -> None:
        """Count the n-grams of each segment (1-D token ids); none crosses from one segment into the next.

        Raises ValueError for an order or a vocabulary below 1, an id outside of the vocabulary, or no token at all.
        """
        if order < 1:
            raise ValueError(f"order is {order}: an n-gram has at least one token")
        if vocabulary < 1:
            raise ValueError(f"vocabulary is {vocabulary}: it must hold at least one token")
        segments = [segment for segment in segments if len(segment)]
        if not segments:
            raise ValueError("there are no tokens to count: the list of training tokens is empty")
        stream = np.concatenate(segments)
        if stream.min() < 0 or stream.max() >= vocabulary:
            raise ValueError(f"token id {stream.max()} or {stream.min()} lies outside the vocabulary of {vocabulary}")
        self.order = order
        self.vocabulary = vocabulary
        self.tokens = len(stream)
        self._levels = _levels(stream, np.array([len(segment) for segment in segments]), vocabulary, order)
        self.ngrams = [len(level.keys) for level in self._levels]

    def log_probabilities(self, tokens: NDArray[np.integer], history: Sequence[int] = ()) -> Floats:
        """Natural log of the probability of each token given those before it.

        tokens: (T,) ids; history: ids that come before the first one and are not scored. Returns (T,) float64, finite.
        """
        stream = np.concatenate([np.asarray(history, dtype=np.int64), np.asarray(tokens).astype(np.int64)])
        probability = np.full(len(stream), 1.0 / self.vocabulary)
        contexts = np.zeros(len(stream), dtype=np.int64)  # before the first token and before any n-gram: the empty one
        for level in self._levels:
            seen = np.flatnonzero(contexts != _UNSEEN)
            numbers = np.full(len(stream), _UNSEEN)
            found_at, numbers[seen] = _look_up(level.keys, contexts[seen] * self.vocabulary + stream[seen])
            probability[seen] *= level.backoff[contexts[seen]]
            probability[seen[found_at]] += level.discounted[numbers[seen[found_at]]]
            contexts = np.concatenate([[_UNSEEN], numbers[:-1]])
        return np.log(probability[len(history) :])


def _look_up(table: Ints, keys: Ints) -> tuple[NDArray[np.intp], Ints]:
    """Where in `keys` those lie that the table holds, and the number of every key, -1 for one that it lacks."""
    at = np.minimum(np.searchsorted(table, keys), len(table) - 1)
    found = table[at] == keys
    return np.flatnonzero(found), np.where(found, at, _UNSEEN)


def _levels(stream: NDArray[np.integer], lengths: Ints, vocabulary: int, order: int) -> list[_Level]:
    """Levels 1 to order, or as far as the longest segment reaches.

    The highest holds true counts; an n-gram of the others counts the different tokens that stand before it.
    """
    order = min(order, int(lengths.max()))
    age = np.arange(len(stream)) - np.repeat(np.cumsum(lengths) - lengths, lengths)  # place in its segment
    numbers = np.zeros(len(stream), dtype=np.int64)  # of the n-gram that ends at each place
    keys_of: list[Ints] = []
    counts_of: list[Ints] = []
    for n in range(1, order + 1):
        places = np.flatnonzero(age >= n - 1)
        contexts = numbers[places - 1] if n > 1 else 0
        keys, first, inverse, counts = np.unique(
            contexts * vocabulary + stream[places].astype(np.int64),
            return_index=True,
            return_inverse=True,
            return_counts=True,
        )
        if n > 1:
            # Without its oldest token each of these n-grams is one that ends at the same place.
            counts_of[-1] = np.bincount(numbers[places[first]], minlength=len(keys_of[-1]))
        numbers[places] = inverse
        keys_of.append(keys)
        counts_of.append(counts)
    sizes = [1, *map(len, keys_of)]
    return [
        _level(keys, counts, vocabulary, contexts)
        for keys, counts, contexts in zip(keys_of, counts_of, sizes[:-1], strict=True)
    ]


def _level(keys: Ints, counts: Ints, vocabulary: int, contexts: int) -> _Level:
    # A count is 0 where nothing ever stood before the n-gram: at the start of a segment only.
    discount = _discounts(counts)[np.minimum(counts, 3)]
    context = keys // vocabulary
    total = np.bincount(context, weights=counts, minlength=contexts)
    freed = np.bincount(context, weights=discount, minlength=contexts)
    followed = total > 0
    backoff = np.divide(freed, total, out=np.ones(contexts), where=followed)
    total[~followed] = 1.0
    return _Level(keys, (counts - discount) / total[context], backoff)


def _discounts(counts: Ints) -> Floats:
    """D0 = 0, D1, D2 and D3+ from the numbers of n-grams seen once to four times (Chen & Goodman, equation 26)."""
    seen = np.bincount(np.minimum(counts, 5), minlength=6)[1:5].astype(np.float64)
    if seen.all():
        share = seen[0] / (seen[0] + 2 * seen[1])
        estimates = [n - (n + 1) * share * seen[n] / seen[n - 1] for n in (1, 2, 3)]
        if all(0 < estimate <= n for n, estimate in enumerate(estimates, start=1)):
            return np.array([0.0, *estimates])
    return np.array([0.0, *DISCOUNT_FALLBACK])
