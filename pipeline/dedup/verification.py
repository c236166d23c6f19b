"""Verification: a document goes only when a document that stays really contains enough of it."""

from __future__ import annotations

from collections.abc import Iterable

import numba
import numpy as np
from numpy.typing import NDArray

from pipeline.dedup.evidence import Evidence

NONE = -1
"""The twin of a document that stays."""

_MUCH_LONGER = 16  # from this ratio of sizes on, searching beats merging
_32 = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)


@numba.njit(nogil=True, cache=True)
def overlap(few: NDArray[np.uint32], many: NDArray[np.uint32]) -> int:
    """Count what two ascending arrays of distinct values have in common; `few` is the shorter one."""
    common = 0
    if len(many) < _MUCH_LONGER * len(few):
        left = right = 0
        while left < len(few) and right < len(many):
            a, b = few[left], many[right]
            common += a == b
            left += a <= b
            right += b <= a
        return common
    low = 0
    for value in few:  # gallop, then halve: |few| log(|many| / |few|) steps
        step = 1
        high = low
        while high < len(many) and many[high] < value:
            low = high + 1
            high += step
            step *= 2
        high = min(high, len(many))
        while low < high:
            middle = (low + high) // 2
            if many[middle] < value:
                low = middle + 1
            else:
                high = middle
        if low == len(many):
            break
        common += many[low] == value
    return common


@numba.njit(nogil=True, cache=True)
def _verify(
    members: NDArray[np.int64],
    others: NDArray[np.int64],
    starts: NDArray[np.int64],
    sizes: NDArray[np.int64],
    shingles: NDArray[np.uint32],
    least_containment: float,
    least_jaccard: float,
    asked: NDArray[np.int64],
    twins: NDArray[np.int64],
    containments: NDArray[np.float64],
    jaccards: NDArray[np.float64],
) -> None:
    at = 0
    while at < len(members):
        member = members[at]
        size = sizes[member]
        set_ = shingles[starts[member] : starts[member] + size]
        while at < len(members) and members[at] == member:
            candidate = others[at]
            at += 1
            if twins[candidate] != NONE:  # it went before: its twin, which stays, is asked in its place
                candidate = twins[candidate]
            if asked[candidate] == member or sizes[candidate] < least_containment * size:
                continue
            asked[candidate] = member
            other_size = sizes[candidate]
            other = shingles[starts[candidate] : starts[candidate] + other_size]
            common = overlap(set_, other) if size <= other_size else overlap(other, set_)
            containment = common / size
            jaccard = common / (size + other_size - common)
            if containment < least_containment or jaccard < least_jaccard:
                continue
            twin = twins[member]
            if twin == NONE or (containment, jaccard, -candidate) > (containments[member], jaccards[member], -twin):
                twins[member] = candidate
                containments[member] = containment
                jaccards[member] = jaccard


def verified_twins(
    evidence: Evidence, pairs: Iterable[NDArray[np.uint64]], least_containment: float, least_jaccard: float
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Twin (NONE where the document stays), containment and Jaccard similarity, by number of the evidence.

    Goes through the documents from the most preferred one down. A document goes when one of those that it is paired
    with holds enough of its distinct shingles (`least_containment`) and is similar enough (`least_jaccard`); where that
    one went before, its twin is asked in its place. So every twin stays, and no chain of pairs can remove a document
    that no kept document contains. Of several, the twin is the one that contains most (then the more similar, then the
    more preferred). `pairs` are those of `candidate_pairs`, of ranks in `evidence`.
    """
    twins = np.full(len(evidence.ranks), NONE, np.int64)
    containments, jaccards = np.zeros(len(twins)), np.zeros(len(twins))
    asked = np.full(len(twins), NONE, np.int64)  # by which document a candidate was asked last
    for packed in pairs:
        members, others = evidence.numbers(packed >> _32), evidence.numbers(packed & _LOW)
        _verify(
            members,
            others,
            evidence.starts,
            evidence.sizes,
            evidence.shingles,
            least_containment,
            least_jaccard,
            asked,
            twins,
            containments,
            jaccards,
        )
    return twins, containments, jaccards


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
