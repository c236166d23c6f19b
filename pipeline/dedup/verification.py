"""Verification: a document goes only when a document that stays really contains enough of it.

The measure is *coverage*: the share of a document's words (places in the text, so repetitions count) that lie in at
least one shingle which the other document has too. Unlike the share of shingles it hardly suffers from scattered
edits: where one word in twenty is another, 77 % of the 5-word shingles are left but 93 % of the words are covered. So
the threshold can be above the share of the template in templated pages.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from pipeline.dedup.evidence import EMPTY, Evidence, holds, table_slots

NONE = -1
"""The twin of a document that stays."""

_UNKNOWN = -1
_32 = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)


class Thresholds(NamedTuple):
    """Least values of a removed document with its twin, all of which must be reached; 0 asks for nothing."""

    coverage: float
    containment: float
    jaccard: float


class Verified(NamedTuple):
    """What verification decided, by number of the evidence; the measures are 0 where a document stays."""

    twins: NDArray[np.int64]  # NONE where the document stays
    coverage: NDArray[np.float64]  # share of its words in shingles that the twin has too
    containment: NDArray[np.float64]  # share of its distinct shingles that the twin has too
    jaccard: NDArray[np.float64]  # of the two sets of distinct shingles


@numba.njit(nogil=True, cache=True)
def uncovered_words(shingles: NDArray[np.uint32], table: NDArray[np.uint32], length: int, most: int) -> int:
    """Count the words that lie in no shingle of `table`; any number above `most` may be short of the count.

    `shingles` are of `length` words each, in text order. A document of fewer words than a shingle counts as one of
    `length`, which are all covered or none.
    """
    words = len(shingles) + length - 1
    missing = -1  # the last shingle known to be absent
    uncovered = 0
    word = 0
    while word < words:
        last = min(word, len(shingles) - 1)
        # Of the shingles that cover this word the last one in the table covers most of what follows: where texts agree
        # that is one look-up for `length` words.
        at = last
        first = max(missing + 1, word - length + 1)
        while at >= first and not holds(table, shingles[at]):
            at -= 1
        missing = last
        if at >= first:
            word = at + length
            continue
        uncovered += 1
        if uncovered > most:
            return uncovered
        word += 1
    return uncovered


@numba.njit(nogil=True, cache=True)
def common_shingles(left: NDArray[np.uint32], right: NDArray[np.uint32]) -> int:
    """Count the distinct shingles that two tables have in common; it costs the length of the shorter one."""
    few, many = (left, right) if len(left) <= len(right) else (right, left)
    common = 0
    for shingle in few:
        common += shingle != EMPTY and holds(many, shingle)
    return common


@numba.njit(nogil=True, cache=True, inline="always")
def _table(
    records: NDArray[np.uint32], starts: NDArray[np.int64], sizes: NDArray[np.int64], document: int
) -> NDArray[np.uint32]:
    start = starts[document] + sizes[document]
    return records[start : start + table_slots(sizes[document])]


@numba.njit(nogil=True, cache=True)
def _most_uncovered(words: int, least_coverage: float) -> int:
    covered = int(least_coverage * words)
    while covered / words < least_coverage:
        covered += 1
    return words - covered


@numba.njit(nogil=True, cache=True)
def _verify(
    members: NDArray[np.int64],
    others: NDArray[np.int64],
    length: int,
    starts: NDArray[np.int64],
    sizes: NDArray[np.int64],
    distinct: NDArray[np.int64],
    records: NDArray[np.uint32],
    least_coverage: float,
    least_containment: float,
    least_jaccard: float,
    asked: NDArray[np.int64],
    twins: NDArray[np.int64],
    coverages: NDArray[np.float64],
    containments: NDArray[np.float64],
    jaccards: NDArray[np.float64],
) -> None:
    at = 0
    while at < len(members):
        member = members[at]
        first = at
        while at < len(members) and members[at] == member:
            at += 1
        size = sizes[member]
        if size == 0:
            continue
        words = size + length - 1
        shingles = records[starts[member] : starts[member] + size]
        table = _table(records, starts, sizes, member)
        twin = NONE
        common = _UNKNOWN
        uncovered = _most_uncovered(words, least_coverage)
        for candidate in others[first:at]:
            if twins[candidate] != NONE:  # it went before: its twin, which stays, is asked in its place
                candidate = twins[candidate]
            if asked[candidate] == member:
                continue
            asked[candidate] = member
            fewer, more = min(distinct[member], distinct[candidate]), max(distinct[member], distinct[candidate])
            if fewer / distinct[member] < least_containment or fewer / more < least_jaccard:
                continue
            # At least this many shingles are missing, so no more than `hits` of them can cover words.
            hits = size - (distinct[member] - fewer)
            if hits * length < words - uncovered:
                continue
            other_table = _table(records, starts, sizes, candidate)
            other_uncovered = uncovered_words(shingles, other_table, length, uncovered)
            if other_uncovered > uncovered:  # below the threshold, or less than the best one covers
                continue
            other_common = _UNKNOWN
            ties = twin != NONE and other_uncovered == uncovered
            if ties or least_containment > 0 or least_jaccard > 0:
                other_common = common_shingles(table, other_table)
                union = distinct[member] + distinct[candidate] - other_common
                if other_common / distinct[member] < least_containment or other_common / union < least_jaccard:
                    continue
            if ties:
                if common == _UNKNOWN:
                    common = common_shingles(table, _table(records, starts, sizes, twin))
                # Of equal containment, the fewer shingles the candidate has the higher is the Jaccard similarity.
                if (-common, distinct[twin], twin) < (-other_common, distinct[candidate], candidate):
                    continue
            twin, uncovered, common = candidate, other_uncovered, other_common
        if twin != NONE:
            if common == _UNKNOWN:
                common = common_shingles(table, _table(records, starts, sizes, twin))
            twins[member] = twin
            coverages[member] = (words - uncovered) / words
            containments[member] = common / distinct[member]
            jaccards[member] = common / (distinct[member] + distinct[twin] - common)


def verified_twins(evidence: Evidence, pairs: Iterable[NDArray[np.uint64]], thresholds: Thresholds) -> Verified:
    """Decide which documents go, and for which twin.

    Goes through the documents from the most preferred one down. A document goes when one of those that it is paired
    with covers and contains enough of it and is similar enough (`thresholds`); where that one went before, its twin is
    asked in its place. So every twin stays, and no chain of pairs can remove a document of which no kept document holds
    enough. Of several, the twin is the one that covers most; then that which contains most, the more similar, the more
    preferred. `pairs` are those of `candidate_pairs`, of ranks in `evidence`. A document without shingles stays.
    """
    twins = np.full(len(evidence.ranks), NONE, np.int64)
    asked = twins.copy()  # by which document a candidate was asked last
    coverage, containment, jaccard = (np.zeros(len(twins)) for _ in range(3))
    for packed in pairs:
        _verify(
            evidence.numbers(packed >> _32),
            evidence.numbers(packed & _LOW),
            evidence.shingle_words,
            evidence.starts,
            evidence.shingles,
            evidence.distinct,
            evidence.records,
            *thresholds,
            asked,
            twins,
            coverage,
            containment,
            jaccard,
        )
    return Verified(twins, coverage, containment, jaccard)


@numba.njit(nogil=True, cache=True)
def _agreement(
    signatures: NDArray[np.uint32], left: NDArray[np.int64], right: NDArray[np.int64], share: NDArray[np.float64]
) -> None:
    width = signatures.shape[1]
    for at in range(len(left)):
        equal = 0
        for k in range(width):
            equal += signatures[left[at], k] == signatures[right[at], k]
        share[at] = equal / width


def estimated_similarity(
    evidence: Evidence, documents: NDArray[np.int64], twins: NDArray[np.int64]
) -> NDArray[np.float64]:
    """MinHash's estimate of the Jaccard similarity: the share of equal values in two signatures, (documents,)."""
    share = np.empty(len(documents))
    _agreement(evidence.signatures, evidence.rows[documents], evidence.rows[twins], share)
    return share
