"""The n-gram model: one hash table of n-grams with their probabilities, and the kernel that scores text with it.

A document is the sequence <s>, its words, </s>, whatever its lines: so hard-wrapped text scores as its paragraphs do.
Words are those of `pipeline.text.scan`. Its perplexity is exp(-sum(ln p) / (words + 1)), over the words and </s>.
CCNet (Wenzek et al. 2020, section 3.4) scores pieces of a SentencePiece model, line by line.

The table is an array of slots of 16 bytes: a key (uint64, 0 in an empty slot), ln p and ln of the back-off weight
(float32). Each order has a range of slots with linear probing. A word's key is its hash, that of a longer n-gram is
made of the slots of its context and of its last word: the slot is the n-gram's number.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Self

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.perplexity.counts import SPECIAL, Words, corpus_of, levels
from pipeline.perplexity.estimation import Estimate, estimate
from pipeline.text.scan import word_hashes

DEFAULT_ORDER: Final = 5
DEFAULT_MINIMUM_COUNTS: Final = (1, 2, 2, 2)
MOST_SLOTS: Final = 1 << 32

_BLOCK: Final = 1024  # words of a document that go through the orders together
_LOAD: Final = 0.6  # share of the slots that is used
_MULTIPLIER: Final = np.uint64(0x9E3779B97F4A7C15)
_LAST_SPECIAL: Final = np.uint64(SPECIAL)  # keys of <unk>, <s> and </s> are 1 to 3
_1: Final = np.uint64(1)
_32: Final = np.uint64(32)


@dataclass(frozen=True)
class Facts:
    """What a model was made of, as it stands in its file."""

    order: int
    words: int  # words and ends of documents that it was trained on; 0 where it is not known
    documents: int
    ngrams: list[int]  # kept, by order
    discounts: list[list[float]]  # D1, D2, D3+ by order; empty where it was not trained here


@numba.njit(nogil=True, cache=True, inline="always")
def _home(key: np.uint64, first: np.int64, capacity: np.int64) -> np.int64:
    mixed = (key ^ (key >> _32)) * _MULTIPLIER
    return first + np.int64(((mixed >> _32) * np.uint64(capacity)) >> _32)


@numba.njit(nogil=True, cache=True, inline="always")
def _find(keys: NDArray[np.uint64], key: np.uint64, at: np.int64, first: np.int64, capacity: np.int64) -> np.int64:
    """Slot of a key, sought from `at` on, or -1. A full table ends the search too."""
    for _ in range(capacity):
        found = keys[2 * at]
        if found == key:
            return at
        if found == 0:
            return np.int64(-1)
        at += 1
        if at == first + capacity:
            at = first
    return np.int64(-1)


@numba.njit(nogil=True, cache=True)
def _insert(
    keys: NDArray[np.uint64],
    values: NDArray[np.float32],
    new: NDArray[np.uint64],
    log_probability: NDArray[np.float32],
    log_backoff: NDArray[np.float32],
    first: np.int64,
    capacity: np.int64,
    slots: NDArray[np.int64],
) -> None:
    for gram in range(len(new)):
        at = _home(new[gram], first, capacity)
        while keys[2 * at] != 0:
            at += 1
            if at == first + capacity:
                at = first
        keys[2 * at] = new[gram]
        values[4 * at + 2] = log_probability[gram]
        values[4 * at + 3] = log_backoff[gram]
        slots[gram] = at


@numba.njit(nogil=True, cache=True)
def _score_words(
    hashes: NDArray[np.uint64],
    keys: NDArray[np.uint64],
    values: NDArray[np.float32],
    capacity: np.int64,
    unknown: np.int64,
    ids: NDArray[np.int64],
    score: NDArray[np.float64],
    home: NDArray[np.int64],
    wanted: NDArray[np.uint64],
    seen: NDArray[np.uint64],
) -> None:
    """Put the slot and ln p of each word of a block at its place in ids[0] and score; the first place is 1.

    All slots are read before any is looked at, here and for longer n-grams, so that the reads overlap in memory.
    """
    first = np.int64(0)
    for number in range(len(hashes)):
        key = hashes[number]
        wanted[number] = key if key > _LAST_SPECIAL else key + _LAST_SPECIAL + _1
        home[number] = _home(wanted[number], first, capacity)
        seen[number] = keys[2 * home[number]]
    for number in range(len(hashes)):
        at = home[number]
        if seen[number] != wanted[number]:
            at = _find(keys, wanted[number], at, first, capacity)
            at = unknown if at < 0 else at
        ids[0, number + 1] = at
        score[number + 1] = values[4 * at + 2]


@numba.njit(nogil=True, cache=True)
def _score_ngrams(
    n: np.int64,
    size: np.int64,
    keys: NDArray[np.uint64],
    values: NDArray[np.float32],
    first: np.int64,
    capacity: np.int64,
    ids: NDArray[np.int64],
    score: NDArray[np.float64],
    places: NDArray[np.int64],
    home: NDArray[np.int64],
    wanted: NDArray[np.uint64],
    seen: NDArray[np.uint64],
) -> None:
    """Fill ids[n] from ids[n - 1]: a longer n-gram sets the score of its last word, a missing one adds the back-off."""
    sought = 0
    for place in range(1, size + 1):
        ids[n, place] = -1
        context = ids[n - 1, place - 1]
        if context < 0:
            continue
        if ids[n - 1, place] < 0:  # an n-gram is there only where its end is
            score[place] += values[4 * context + 3]
            continue
        places[sought] = place
        wanted[sought] = (np.uint64(context) << _32) + np.uint64(ids[0, place] + 1)
        home[sought] = _home(wanted[sought], first, capacity)
        sought += 1
    for number in range(sought):
        seen[number] = keys[2 * home[number]]
    for number in range(sought):
        place, at = places[number], home[number]
        if seen[number] != wanted[number]:
            at = np.int64(-1) if seen[number] == 0 else _find(keys, wanted[number], at, first, capacity)
        ids[n, place] = at
        if at >= 0:
            score[place] = values[4 * at + 2]
        else:
            score[place] += values[4 * ids[n - 1, place - 1] + 3]


@numba.njit(nogil=True, cache=True)
def _score(
    offsets: NDArray[np.int64],
    hashes: NDArray[np.uint64],
    keys: NDArray[np.uint64],
    values: NDArray[np.float32],
    bases: NDArray[np.int64],
    special: NDArray[np.int64],
    total: NDArray[np.float64],
    each: NDArray[np.float64],
) -> None:
    """Fill `total` (documents,) with ln p of each document, and `each`, unless it is empty, with that of each word.

    The words of a block go through one order after another; what the next block needs is the last place of each order.
    """
    order = len(bases) - 1
    ids = np.empty((order, _BLOCK + 1), np.int64)  # slot of the n-gram that ends at each place, or -1
    score = np.empty(_BLOCK + 1, np.float64)
    places, home = np.empty(_BLOCK, np.int64), np.empty(_BLOCK, np.int64)
    wanted, seen = np.empty(_BLOCK, np.uint64), np.empty(_BLOCK, np.uint64)
    written = np.int64(0)
    for document in range(len(offsets) - 1):
        total[document] = 0.0
        begin, end = offsets[document], offsets[document + 1]
        if begin == end:
            continue
        ids[:, 0] = -1
        ids[0, 0] = special[1]
        while begin <= end:  # </s> stands at `end`
            size = min(end + 1 - begin, np.int64(_BLOCK))
            block = hashes[begin : min(begin + size, end)]
            _score_words(block, keys, values, bases[1], special[0], ids, score, home, wanted, seen)
            if len(block) < size:
                ids[0, size] = special[2]
                score[size] = values[4 * special[2] + 2]
            for n in range(1, order):
                first, capacity = bases[n], bases[n + 1] - bases[n]
                _score_ngrams(np.int64(n), size, keys, values, first, capacity, ids, score, places, home, wanted, seen)
            for place in range(1, size + 1):
                total[document] += score[place]
            if len(each):
                each[written : written + size] = score[1 : size + 1]
            written += size
            ids[:, 0] = ids[:, size]
            begin += size


class NgramModel:
    """An interpolated modified Kneser-Ney model of words.

    Make one with `train`, `pipeline.perplexity.file.load` or `pipeline.perplexity.arpa.from_arpa`.
    """

    def __init__(self, slots: NDArray[np.uint64], bases: Sequence[int], special: Sequence[int], facts: Facts) -> None:
        """Take the table: `slots` (2 * slots,), the first slot of each order and the end, and of <unk>, <s>, </s>.

        Raises ValueError where they cannot be of one table.
        """
        orders = [*bases]
        whole = len(orders) > 1 and orders[0] == 0 and 2 * orders[-1] == len(slots) and orders[-1] < MOST_SLOTS
        if not whole or any(np.diff(orders) < 1):
            raise ValueError(f"the table of {len(slots) // 2} slots does not have the orders {orders}")
        if len(special) != SPECIAL or not all(0 <= slot < orders[1] for slot in special):
            raise ValueError(f"the special words are not in the table: {list(special)}")
        self.slots = slots.view()
        self.slots.flags.writeable = False
        self.bases = np.array(orders, np.int64)
        self.special = np.array(special, np.int64)
        self.facts = facts

    @classmethod
    def train(
        cls,
        documents: Iterable[Words],
        order: int = DEFAULT_ORDER,
        minimum_word_count: int = 2,
        minimum_counts: Sequence[int] = DEFAULT_MINIMUM_COUNTS,
    ) -> Self:
        """Train on documents given as the offsets and hashes of `word_hashes`, in parts of any size.

        A word seen fewer than `minimum_word_count` times is <unk>; an n-gram of order 2 and more is kept where it is
        seen `minimum_counts[order - 2]` times (the last value holds for the orders above). Takes some 60 bytes of
        memory a word. Raises ValueError for an order below 1, counts that fall from one order to the next (the
        n-gram's end could be missing), or no word at all.
        """
        if order < 1:
            raise ValueError(f"order is {order}: an n-gram has at least one word")
        counts = spread(minimum_counts, order)
        corpus = corpus_of(documents, minimum_word_count)
        estimated = estimate(corpus.vocabulary, levels(corpus, order), counts)
        return cls.of_estimate(estimated, order, corpus.predicted, corpus.documents)

    @classmethod
    def of_estimate(cls, estimated: Estimate, order: int, words: int, documents: int) -> Self:
        """Make the table of an estimated model. `order` is what was asked for, which short documents may not reach."""
        sizes = [len(grams.word) for grams in estimated.orders]
        bases = np.concatenate([[0], np.cumsum([int(size / _LOAD) + 1 for size in sizes])])
        if bases[-1] >= MOST_SLOTS:
            raise ValueError(f"{sum(sizes)} n-grams are too many for one table; raise minimum_counts")
        slots = np.zeros(2 * int(bases[-1]), np.uint64)
        values = slots.view(np.float32)
        of_word = np.zeros(0, np.int64)
        of_context = np.zeros(0, np.int64)
        for n, grams in enumerate(estimated.orders):
            if n == 0:
                hashes = estimated.vocabulary
                new = np.where(hashes > SPECIAL, hashes, hashes + np.uint64(SPECIAL + 1))
                new[:SPECIAL] = np.arange(1, SPECIAL + 1)
            else:
                new = (of_context[grams.context].astype(np.uint64) << _32) + (of_word[grams.word] + 1).astype(np.uint64)
            placed = np.empty(len(new), np.int64)
            first, capacity = np.int64(bases[n]), np.int64(bases[n + 1] - bases[n])
            _insert(slots, values, new, grams.log_probability, grams.log_backoff, first, capacity, placed)
            of_context = placed
            of_word = placed if n == 0 else of_word
        facts = Facts(order, words, documents, sizes, estimated.discounts)
        return cls(slots, bases.tolist(), of_word[:SPECIAL].tolist(), facts)

    def log_probabilities(self, words: Words) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Natural log of the probability of each document (documents,), and of each of its words and its end.

        The second array runs over all documents: one value for each word, then that of </s>; nothing for a document
        without words, whose own value is 0.
        """
        offsets, hashes = words
        total = np.empty(len(offsets) - 1, np.float64)
        each = np.empty(len(hashes) + int((np.diff(offsets) > 0).sum()), np.float64)
        self._run(offsets, hashes, total, each)
        return total, each

    def perplexities(self, words: Words) -> NDArray[np.float64]:
        """Perplexity of each document (documents,), NaN for one without words. Infinite where it exceeds float64."""
        offsets, hashes = words
        total = np.empty(len(offsets) - 1, np.float64)
        self._run(offsets, hashes, total, np.empty(0, np.float64))
        counts = np.diff(offsets)
        with np.errstate(over="ignore"):
            return np.where(counts > 0, np.exp(-total / (counts + 1)), np.nan)

    def perplexity(self, texts: pa.Array | pa.ChunkedArray) -> pa.DoubleArray:
        """Perplexity of each text, null for one without words (or null itself). The batch has no influence.

        Raises TypeError where `texts` is neither string nor large_string.
        """
        return pa.array(self.perplexities(word_hashes(texts)), pa.float64(), from_pandas=True)  # type: ignore[return-value]

    def _run(
        self,
        offsets: NDArray[np.int64],
        hashes: NDArray[np.uint64],
        total: NDArray[np.float64],
        each: NDArray[np.float64],
    ) -> None:
        _score(offsets, hashes, self.slots, self.slots.view(np.float32), self.bases, self.special, total, each)


def spread(minimum_counts: Sequence[int], order: int) -> list[int]:
    """The minimum counts of order 2 to `order`: the last one given holds for the orders above.

    Raises ValueError where they fall from one order to the next, or one is below 1.
    """
    counts = [*minimum_counts] or [1]
    if any(count < 1 for count in counts) or any(np.diff(counts) < 0):
        raise ValueError(
            f"minimum_counts is {counts}: each must be at least 1 and no smaller than that of the order below, "
            "or an n-gram would be kept whose end is not"
        )
    return [*counts, *[counts[-1]] * order][: order - 1]
