"""Count models of the same tokens, as baselines for a neural one: unigram and interpolated modified Kneser-Ney.

Source: Chen & Goodman 1998, "An Empirical Study of Smoothing Techniques for Language Modeling" (TR-10-98), section 3;
the discounts used when a small corpus gives no estimate are those of KenLM's `--discount_fallback` (Heafield et al. 2013).

An n-gram is one uint64, its tokens as digits in base `vocabulary`, the newest token last: sorting the keys groups
n-grams by context, and the key of the shorter context is the key of the longer one modulo a power of the base.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]
Counts = NDArray[np.int64]
Floats = NDArray[np.float64]

DISCOUNT_FALLBACK = (0.5, 1.0, 1.5)


@dataclass(frozen=True)
class _Level:
    """The n-grams of one order: sorted keys with their counts, and the totals of their contexts."""

    keys: Keys  # (n-grams,) sorted, unique
    discounted: Floats  # (n-grams,) count minus its discount, over the total of the context
    contexts: Keys  # (contexts,) sorted, unique
    backoff: Floats  # (contexts,) the mass that the discounts freed: the weight of the shorter context


class NgramModel:
    """An interpolated modified Kneser-Ney model; order 1 is a unigram model interpolated with the uniform one.

    Attributes: order, vocabulary, tokens (how many were counted), ngrams (distinct ones, by order).
    """

    def __init__(self, segments: Sequence[NDArray[np.integer]], vocabulary: int, order: int = 3) -> None:
        """Count the n-grams of each segment (1-D token ids); none crosses from one segment into the next.

        Raises ValueError for an order below 1, an empty vocabulary, an id outside of it, no token at all,
        or n-grams that do not fit in 64 bits.
        """
        if order < 1:
            raise ValueError(f"order is {order}: an n-gram has at least one token")
        if vocabulary < 1:
            raise ValueError(f"vocabulary is {vocabulary}: it must hold at least one token")
        if vocabulary**order > 2**64:
            largest = max(n for n in range(1, order) if vocabulary**n <= 2**64)
            raise ValueError(f"{order}-grams over {vocabulary} tokens do not fit in 64 bits: choose order <= {largest}")
        segments = [np.asarray(segment) for segment in segments if len(segment)]
        if not segments:
            raise ValueError("there are no tokens to count: the list of training tokens is empty")
        largest_id = max(int(segment.max()) for segment in segments)
        if largest_id >= vocabulary:
            raise ValueError(f"token id {largest_id} lies outside the vocabulary of {vocabulary}")
        self.order = order
        self.vocabulary = vocabulary
        self.tokens = sum(len(segment) for segment in segments)
        self._levels = _levels(segments, vocabulary, order)
        self.ngrams = [len(level.keys) for level in self._levels]

    def log_probabilities(self, tokens: NDArray[np.integer], history: Sequence[int] = ()) -> Floats:
        """Natural log of the probability of each token given those before it.

        tokens: (T,) ids, history: ids that come before the first one, not scored. Returns (T,) float64, all finite.
        """
        context = np.asarray(history, dtype=np.uint64)[-(self.order - 1) :] if self.order > 1 else np.empty(0, np.uint64)
        stream = np.concatenate([context, np.asarray(tokens).astype(np.uint64)])
        base = np.uint64(self.vocabulary)
        keys = stream.copy()
        power = np.uint64(1)
        probability = np.full(len(stream), 1.0 / self.vocabulary)
        for n, level in enumerate(self._levels, start=1):
            if n > 1:
                power = power * base
                keys[n - 1 :] += stream[: len(stream) - n + 1] * power
            probability[n - 1 :] = _interpolate(level, keys[n - 1 :], base, probability[n - 1 :])
        return np.log(probability[len(context) :])


def _interpolate(level: _Level, keys: Keys, base: np.uint64, shorter: Floats) -> Floats:
    """p(w | h) = discounted(h w) + backoff(h) p(w | shorter h); where h was never seen, the shorter one alone."""
    contexts = keys // base
    at, found = _find(level.contexts, contexts)
    backoff = np.where(found, level.backoff[at], 1.0)
    at, found = _find(level.keys, keys)
    return np.where(found, level.discounted[at], 0.0) + backoff * shorter


def _find(table: Keys, keys: Keys) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    at = np.minimum(np.searchsorted(table, keys), len(table) - 1)
    return at, table[at] == keys


def _levels(segments: Sequence[NDArray[np.integer]], vocabulary: int, order: int) -> list[_Level]:
    """Levels 1 to order. The highest holds true counts, the others how many different tokens came before."""
    base = np.uint64(vocabulary)
    while order > 1 and all(len(segment) < order for segment in segments):
        order -= 1  # no segment is long enough to hold one n-gram of that order
    keys, counts = _count(_ngrams(segments, base, order))
    levels = [_level(keys, counts, base)]
    for n in range(order - 1, 0, -1):
        keys, counts = _count(keys % (base ** np.uint64(n)))
        levels.append(_level(keys, counts, base))
    return levels[::-1]


def _ngrams(segments: Sequence[NDArray[np.integer]], base: np.uint64, order: int) -> Keys:
    keys = np.empty(sum(max(0, len(segment) - order + 1) for segment in segments), dtype=np.uint64)
    start = 0
    for segment in segments:
        length = len(segment) - order + 1
        if length <= 0:
            continue
        part = keys[start : start + length]
        part[:] = segment[:length]
        for n in range(1, order):
            part *= base
            part += segment[n : n + length].astype(np.uint64)
        start += length
    return keys


def _count(keys: Keys) -> tuple[Keys, Counts]:
    """The distinct keys in order, and how often each stands in `keys`, which is sorted in place."""
    keys.sort()
    starts = _group_starts(keys)
    return keys[starts], np.diff(starts, append=len(keys)).astype(np.int64)


def _group_starts(keys: Keys) -> Counts:
    changed = np.empty(len(keys), dtype=bool)
    changed[0] = True
    np.not_equal(keys[1:], keys[:-1], out=changed[1:])
    return np.flatnonzero(changed)


def _level(keys: Keys, counts: Counts, base: np.uint64) -> _Level:
    discount = _discounts(counts)[np.minimum(counts, 3)]
    contexts = keys // base
    starts = _group_starts(contexts)
    totals = np.add.reduceat(counts, starts).astype(np.float64)
    freed = np.add.reduceat(discount, starts)
    sizes = np.diff(starts, append=len(keys))
    return _Level(
        keys=keys,
        discounted=(counts - discount) / np.repeat(totals, sizes),
        contexts=contexts[starts],
        backoff=freed / totals,
    )


def _discounts(counts: Counts) -> Floats:
    """D0 = 0, D1, D2 and D3+ from the numbers of n-grams seen once to four times (Chen & Goodman, equation 26)."""
    seen = np.bincount(np.minimum(counts, 5), minlength=6)[1:5].astype(np.float64)
    if not seen.all():
        return np.array([0.0, *DISCOUNT_FALLBACK])
    share = seen[0] / (seen[0] + 2 * seen[1])
    estimates = [n - (n + 1) * share * seen[n] / seen[n - 1] for n in (1, 2, 3)]
    usable = all(0 < estimate <= n for n, estimate in enumerate(estimates, start=1))
    return np.array([0.0, *(estimates if usable else DISCOUNT_FALLBACK)])
