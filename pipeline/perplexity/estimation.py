"""Interpolated modified Kneser-Ney: probabilities and back-off weights of counted n-grams.

Sources: Chen & Goodman 1998, "An Empirical Study of Smoothing Techniques for Language Modeling" (TR-10-98), section 3
and equation 26; Heafield et al. 2013, "Scalable Modified Kneser-Ney Language Model Estimation", section 3 (what KenLM
estimates, pruning and the fallback of the discounts included).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numba
import numpy as np
from numpy.typing import NDArray

from pipeline.perplexity.counts import BEGIN, SPECIAL, UNKNOWN, Hashes, Level, Numbers, adjusted_counts

Floats = NDArray[np.float64]

DISCOUNT_FALLBACK: Final = (0.5, 1.0, 1.5)
"""Discounts where a small corpus gives no estimate: those of KenLM's --discount_fallback."""
NEVER: Final = -99.0
"""Natural log of the probability of <s>, which is never predicted."""


@dataclass(frozen=True)
class Grams:
    """The n-grams of one order that a model keeps."""

    context: Numbers  # (n-grams,) number of the first n - 1 words among the kept ones of the order below
    word: Numbers  # (n-grams,) number of the last word
    log_probability: NDArray[np.float32]  # (n-grams,) natural log, of the last word after the others
    log_backoff: NDArray[np.float32]  # (n-grams,) natural log of the weight of the shorter context after these words


@dataclass(frozen=True)
class Estimate:
    """An estimated model before it becomes a table."""

    vocabulary: Hashes  # (words,) the first SPECIAL are <unk>, <s> and </s>
    orders: list[Grams]
    discounts: list[list[float]]  # D1, D2, D3+ by order


def discounts(adjusted: Numbers) -> Floats:
    """D0 = 0, D1, D2 and D3+ from the numbers of n-grams whose adjusted count is 1 to 4; otherwise the fallback."""
    seen = np.bincount(np.minimum(adjusted, 5), minlength=6)[1:5].astype(np.float64)
    if seen.all():
        share = seen[0] / (seen[0] + 2 * seen[1])
        estimates = [n - (n + 1) * share * seen[n] / seen[n - 1] for n in (1, 2, 3)]
        if all(0 < estimate <= n for n, estimate in enumerate(estimates, start=1)):
            return np.array([0.0, *estimates])
    return np.array([0.0, *DISCOUNT_FALLBACK])


@numba.njit(nogil=True, cache=True)
def _interpolate(
    context: NDArray[np.int32],
    suffix: NDArray[np.int32],
    counts: NDArray[np.int32],
    adjusted: NDArray[np.int32],
    discount: NDArray[np.float64],
    minimum: np.int64,
    lower: NDArray[np.float64],
    freed: NDArray[np.float64],
    probability: NDArray[np.float64],
) -> None:
    """Fill `probability` (n-grams,), and `freed` (contexts,) with the weight of the order below."""
    total = np.zeros(len(freed), np.float64)
    for gram in range(len(context)):
        count = adjusted[gram]
        total[context[gram]] += count
        # What is pruned gives all its count to the order below.
        freed[context[gram]] += count if counts[gram] < minimum else discount[min(count, 3)]
    for number in range(len(freed)):
        freed[number] = freed[number] / total[number] if total[number] > 0 else 1.0
    for gram in range(len(context)):
        count = adjusted[gram]
        own = (count - discount[min(count, 3)]) / total[context[gram]]
        probability[gram] = own + freed[context[gram]] * lower[suffix[gram]]


def estimate(vocabulary: Hashes, found: Sequence[Level], minimum_counts: Sequence[int]) -> Estimate:
    """Estimate the model of counted n-grams.

    `minimum_counts[n]` is how often an n-gram of order n + 2 must be seen to be kept; it must not fall from one order
    to the next. Discounts and totals are those of all n-grams, the pruned ones included, as KenLM's are.
    """
    adjusted = adjusted_counts(found)
    uniform = 1.0 / (len(vocabulary) - 1)  # every word but <s>
    lower, sizes = np.full(1, uniform), 1
    probabilities, backoffs, keeps, used = [], [], [], []
    for number, level in enumerate(found):
        minimum = minimum_counts[number - 1] if number else 0
        discount = discounts(np.delete(adjusted[0], BEGIN) if number == 0 else adjusted[number])
        freed, probability = np.zeros(sizes), np.empty(len(level.word))
        arrays = (level.context, level.suffix, level.counts, adjusted[number])
        _interpolate(*arrays, discount, np.int64(minimum), lower, freed, probability)
        probabilities.append(probability)
        backoffs.append(freed)
        keeps.append(level.counts >= minimum)
        used.append([float(value) for value in discount[1:]])
        lower, sizes = probability, len(level.word)
    keeps[0][:SPECIAL] = True
    return Estimate(vocabulary, _kept(found, probabilities, [*backoffs[1:], np.ones(sizes)], keeps), used)


def _kept(found: Sequence[Level], probabilities: list[Floats], backoffs: list[Floats], keeps: list) -> list[Grams]:
    """Drop the pruned n-grams and number the others anew."""
    orders = []
    renumbered = np.zeros(1, np.int32)
    for level, probability, backoff, keep in zip(found, probabilities, backoffs, keeps, strict=True):
        kept = np.flatnonzero(keep)
        context = renumbered[level.context[kept]]
        orders.append(
            Grams(
                context,
                level.word[kept],
                np.log(probability[kept]).astype(np.float32),
                np.log(backoff[kept]).astype(np.float32),
            )
        )
        renumbered = (np.cumsum(keep) - 1).astype(np.int32)
    orders[0].log_probability[BEGIN] = NEVER
    while len(orders) > 1 and len(orders[-1].word) == 0:
        orders.pop()
    assert UNKNOWN == 0
    return orders
