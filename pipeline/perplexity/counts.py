"""The distinct n-grams of a corpus, order by order, and how often each is seen.

The n-grams of an order are numbered as they first appear. The key of an n-gram is the number of its context (its first
n - 1 words) times the vocabulary plus its last word, so that a key fits 64 bits at any order.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numba
import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Numbers = NDArray[np.int32]
Words = tuple[NDArray[np.int64], Hashes]
"""Words of documents as `pipeline.text.scan.word_hashes` gives them: offsets (documents + 1,), hashes (words,)."""

UNKNOWN: Final = 0
BEGIN: Final = 1
END: Final = 2
SPECIAL: Final = 3
"""The first word numbers are of <unk>, <s> and </s>."""

SKIPPED: Final = np.uint64(0xFFFF_FFFF_FFFF_FFFF)  # the key of a place at which no n-gram ends
_BLOCK: Final = 512  # keys whose slots are read together, so that the memory's delays overlap
_MULTIPLIER: Final = np.uint64(0x9E3779B97F4A7C15)
_32: Final = np.uint64(32)


@dataclass(frozen=True)
class Corpus:
    """A corpus as word numbers: each document begins with BEGIN and ends with END; one without words is left out."""

    words: Numbers  # (words and boundaries,)
    vocabulary: Hashes  # (word numbers,) the hash of each; 0 for the special ones
    documents: int

    @property
    def predicted(self) -> int:
        """Words and ends of documents: what a model gives a probability to."""
        return len(self.words) - self.documents


@dataclass(frozen=True)
class Level:
    """The distinct n-grams of one order, by number."""

    context: Numbers  # (n-grams,) number of the first n - 1 words among the n-grams of the order below
    word: Numbers  # (n-grams,) the last word
    suffix: Numbers  # (n-grams,) number of the last n - 1 words
    counts: Numbers  # (n-grams,) occurrences


@numba.njit(nogil=True, cache=True, inline="always")
def _home(key: np.uint64, mask: np.uint64) -> np.int64:
    mixed = (key ^ (key >> _32)) * _MULTIPLIER
    return np.int64((mixed >> _32 ^ mixed) & mask)


@numba.njit(nogil=True, cache=True)
def _number(
    keys: NDArray[np.uint64], numbers: NDArray[np.int32]
) -> tuple[NDArray[np.uint64], NDArray[np.int32], NDArray[np.int64]]:
    """Number keys in the order of their first appearance; returns distinct keys, their counts and first places."""
    capacity = np.int64(1 << 12)
    mask = np.uint64(capacity - 1)
    table = np.full(capacity, -1, np.int32)
    distinct = np.zeros(capacity // 2, np.uint64)
    counts = np.zeros(capacity // 2, np.int32)
    first = np.zeros(capacity // 2, np.int64)
    count = np.int64(0)
    home = np.empty(_BLOCK, np.int64)
    candidate = np.empty(_BLOCK, np.int32)
    found = np.empty(_BLOCK, np.uint64)
    for begin in range(0, len(keys), _BLOCK):
        size = min(_BLOCK, len(keys) - begin)
        if count + size > len(distinct):
            capacity *= 2
            mask = np.uint64(capacity - 1)
            table = np.full(capacity, -1, np.int32)
            distinct = np.concatenate((distinct, np.zeros(len(distinct), np.uint64)))
            counts = np.concatenate((counts, np.zeros(len(counts), np.int32)))
            first = np.concatenate((first, np.zeros(len(first), np.int64)))
            for old in range(count):
                slot = _home(distinct[old], mask)
                while table[slot] >= 0:
                    slot = (slot + 1) & np.int64(mask)
                table[slot] = old
        for place in range(size):
            home[place] = _home(keys[begin + place], mask)
            candidate[place] = table[home[place]]
        for place in range(size):
            found[place] = distinct[max(candidate[place], 0)]
        for place in range(size):
            key = keys[begin + place]
            if key == SKIPPED:
                numbers[begin + place] = -1
                continue
            number = candidate[place]
            if number < 0 or found[place] != key:
                slot = home[place]
                while table[slot] >= 0 and distinct[table[slot]] != key:
                    slot = (slot + 1) & np.int64(mask)
                number = table[slot]
                if number < 0:
                    number = np.int32(count)
                    table[slot] = number
                    distinct[number] = key
                    first[number] = begin + place
                    count += 1
            counts[number] += 1
            numbers[begin + place] = number
    return distinct[:count].copy(), counts[:count].copy(), first[:count].copy()


@numba.njit(nogil=True, cache=True)
def _stream(
    offsets: NDArray[np.int64],
    numbers: NDArray[np.int32],
    renumbered: NDArray[np.int32],
    words: NDArray[np.int32],
) -> np.int64:
    at = np.int64(0)
    for document in range(len(offsets) - 1):
        if offsets[document] == offsets[document + 1]:
            continue
        words[at] = BEGIN
        at += 1
        for place in range(offsets[document], offsets[document + 1]):
            words[at] = renumbered[numbers[place]]
            at += 1
        words[at] = END
        at += 1
    return at


def corpus_of(parts: Iterable[Words], minimum_word_count: int) -> Corpus:
    """The corpus of documents; words seen fewer than `minimum_word_count` times become UNKNOWN.

    Raises ValueError where there is no word, or where there are more than a number of 31 bits can count.
    """
    lengths, hashes = [], []
    for offsets, found in parts:
        lengths.append(np.diff(offsets))
        hashes.append(found[offsets[0] : offsets[-1]])
    length = np.concatenate([np.zeros(0, np.int64), *lengths])
    total = int(length.sum())
    if total == 0:
        raise ValueError("there is no word to train on: the documents are empty or hold no letters")
    if total + 2 * len(length) > np.iinfo(np.int32).max:
        raise ValueError(f"{total} words are too many to train on at once; set maximum_words to 2,000,000,000 or less")
    numbers = np.empty(total, np.int32)
    keys = np.concatenate(hashes)
    keys[keys == SKIPPED] = 0
    distinct, counts, _ = _number(keys, numbers)
    known = counts >= minimum_word_count
    renumbered = np.where(known, SPECIAL - 1 + np.cumsum(known), UNKNOWN).astype(np.int32)
    words = np.empty(total + 2 * len(length), np.int32)
    used = _stream(np.concatenate([[0], np.cumsum(length)]), numbers, renumbered, words)
    vocabulary = np.concatenate([np.zeros(SPECIAL, np.uint64), distinct[known]])
    return Corpus(words[:used], vocabulary, int((length > 0).sum()))


@numba.njit(nogil=True, cache=True)
def _keys(
    words: NDArray[np.int32], contexts: NDArray[np.int32], vocabulary: np.int64, keys: NDArray[np.uint64]
) -> None:
    keys[0] = SKIPPED
    for place in range(1, len(words)):
        context = contexts[place - 1]
        if context < 0 or words[place] == BEGIN:
            keys[place] = SKIPPED
        else:
            keys[place] = np.uint64(context * vocabulary + words[place])


def levels(corpus: Corpus, order: int) -> list[Level]:
    """The n-grams of order 1 to `order`, or as far as the longest document reaches. None crosses two documents."""
    vocabulary = len(corpus.vocabulary)
    everything = np.arange(vocabulary, dtype=np.int32)
    nothing = np.zeros(vocabulary, np.int32)
    counts = np.bincount(corpus.words, minlength=vocabulary).astype(np.int32)
    found = [Level(nothing, everything, nothing, counts)]
    numbers = corpus.words
    keys = np.empty(len(corpus.words), np.uint64)
    for _ in range(1, order):
        _keys(corpus.words, numbers, np.int64(vocabulary), keys)
        longer = np.empty(len(corpus.words), np.int32)
        distinct, counts, first = _number(keys, longer)
        if len(distinct) == 0:
            break
        context, word = np.divmod(distinct, np.uint64(vocabulary))
        found.append(Level(context.astype(np.int32), word.astype(np.int32), numbers[first], counts))
        numbers = longer
    return found


def adjusted_counts(found: Sequence[Level]) -> list[Numbers]:
    """Kneser-Ney's counts: occurrences in the highest order, and below it the different words that stand before.

    An n-gram that begins with BEGIN has no word before it and keeps its occurrences (Heafield et al. 2013, section
    3.2), but BEGIN alone, which is never predicted, has none.
    """
    adjusted = []
    for number, level in enumerate(found):
        counts = level.counts
        if number + 1 < len(found):
            before = np.bincount(found[number + 1].suffix, minlength=len(counts)).astype(np.int32)
            counts = np.where(before > 0, before, counts)
        adjusted.append(counts)
    adjusted[0] = adjusted[0].copy()
    adjusted[0][BEGIN] = 0
    return adjusted
