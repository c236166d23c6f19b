from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.dedup.components import component_twins
from pipeline.dedup.evidence import Evidence
from pipeline.dedup.verification import NONE, estimated_similarity, overlap, verified_twins
from tests.pipeline.dedup.corpora import compiling

SETS = st.sets(st.integers(0, 2**32 - 1) | st.integers(0, 40))


def ascending(values: set[int]) -> NDArray[np.uint32]:
    return np.array(sorted(values), np.uint32)


def evidence(*sets: set[int]) -> Evidence:
    """Documents in order of preference, their ranks ten apart."""
    sizes = np.array([len(values) for values in sets], np.int64)
    starts = np.cumsum(sizes) - sizes
    shingles = np.concatenate([ascending(values) for values in sets])
    signatures = np.arange(len(sets) * 4, dtype=np.uint32).reshape(len(sets), 4)
    ranks = 10 * np.arange(len(sets), dtype=np.uint32)
    return Evidence(ranks, starts, sizes, shingles, np.arange(len(sets)), signatures)


def packed(*pairs: tuple[int, int]) -> NDArray[np.uint64]:
    return np.array(sorted(10 * member << 32 | 10 * other for member, other in pairs), np.uint64)


@compiling
@given(SETS, SETS)
def test_overlap_counts_common_values(left: set[int], right: set[int]):
    few, many = sorted([left, right], key=len)
    assert overlap(ascending(few), ascending(many)) == len(few & many)


@compiling
@given(st.integers(0, 2**32 - 1), st.integers(0, 40), st.integers(500, 3000))
def test_overlap_of_a_short_document_in_a_long_one(seed: int, few: int, many: int):
    random = np.random.default_rng(seed)
    short = set(random.integers(0, 4000, few).tolist())
    long = set(random.integers(0, 4000, many).tolist())
    assert overlap(ascending(short), ascending(long)) == len(short & long)


def test_a_chain_of_pairs_removes_only_what_a_kept_document_contains():
    a, b, c, d = (set(range(start, start + 100)) for start in (0, 15, 30, 45))
    twins, containment, jaccard = verified_twins(
        evidence(a, b, c, d), [packed((1, 0), (2, 1)), packed((3, 2))], 0.8, 0.0
    )
    assert twins.tolist() == [NONE, 0, NONE, 2]  # c holds 70 % of a, but d 85 % of c
    assert containment[[1, 3]].tolist() == [0.85, 0.85]
    assert jaccard[1] == pytest.approx(85 / 115)
    assert component_twins(evidence(a, b, c, d), [packed((1, 0), (2, 1)), packed((3, 2))]).tolist() == [NONE, 0, 0, 0]


def test_the_twin_of_a_candidate_that_went_is_asked_in_its_place():
    a, b, c = set(range(100)), set(range(5, 100)), set(range(10, 100))
    twins, _, _ = verified_twins(evidence(a, b, c), [packed((1, 0), (2, 1))], 0.8, 0.0)
    assert twins.tolist() == [NONE, 0, 0]


def test_the_twin_is_the_candidate_that_contains_most():
    small = set(range(100))
    less, most, same = set(range(10, 300)), set(range(5, 300)), set(range(5, 200)) | set(range(1000, 1100))
    twins, containment, _ = verified_twins(
        evidence(less, most, same, small), [packed((3, 0), (3, 1), (3, 2))], 0.8, 0.0
    )
    assert twins.tolist() == [NONE, NONE, NONE, 1]  # of two that contain 95 %, the one of equal length preferred first
    assert containment[3] == 0.95


def test_thresholds_are_least_values():
    a, b = set(range(100)), set(range(20, 100)) | set(range(200, 220))
    assert verified_twins(evidence(a, b), [packed((1, 0))], 0.8, 80 / 120)[0].tolist() == [NONE, 0]
    assert verified_twins(evidence(a, b), [packed((1, 0))], 0.801, 0.0)[0].tolist() == [NONE, NONE]
    assert verified_twins(evidence(a, b), [packed((1, 0))], 0.8, 0.67)[0].tolist() == [NONE, NONE]


@compiling
@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=25))
def test_components_are_those_of_a_search(edges: list[tuple[int, int]]):
    pairs = {(max(edge), min(edge)) for edge in edges if edge[0] != edge[1]}
    neighbours: dict[int, set[int]] = {node: set() for node in range(20)}
    for left, right in pairs:
        neighbours[left].add(right)
        neighbours[right].add(left)
    expected = []
    for node in range(20):
        seen, waiting = {node}, [node]
        while waiting:
            for other in neighbours[waiting.pop()] - seen:
                seen.add(other)
                waiting.append(other)
        expected.append(min(seen) if min(seen) != node else NONE)
    assert component_twins(evidence(*[{0}] * 20), [packed(*pairs)]).tolist() == expected


def test_the_estimate_is_the_share_of_equal_values():
    documents = evidence({1}, {1})
    documents.signatures[:] = [[1, 2, 3, 4], [1, 9, 3, 4]]
    assert estimated_similarity(documents, np.array([1]), np.array([0])).tolist() == [0.75]
