"""The filter of bounded memory misses nothing that is repeated, and errs at the rate that it tells."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.repeats.first_seen import FirstSeen
from pipeline.repeats.line_units import Units
from tests.pipeline.dedup.corpora import compiling

Documents = dict[int, list[int]]  # hashes of the units, all different, by rank


def units(hashes: list[int]) -> Units:
    """One document."""
    nothing = np.zeros(len(hashes), np.int64)
    later = np.array([value in hashes[:at] for at, value in enumerate(hashes)], np.bool_)
    return Units(np.array([0, len(hashes)]), nothing, nothing, np.array(hashes, np.uint64), later)


def fill(documents: Documents, memory_bytes: int, minimum: int, keep_first: bool, order: list[int]) -> FirstSeen:
    seen = FirstSeen(memory_bytes, minimum, keep_first, 1 + max(documents, default=0))
    for rank in order:
        seen.add(0, units(documents[rank]), np.array([rank], np.uint32))
    return seen


def ask(seen: FirstSeen, documents: Documents) -> dict[int, list[bool]]:
    return {
        rank: seen.repeated(0, 0, units(hashes), np.array([rank], np.uint32)).tolist()
        for rank, hashes in documents.items()
    }


@compiling
@given(
    st.dictionaries(st.integers(0, 50), st.lists(st.integers(0, 30), max_size=8), max_size=10),
    st.integers(1, 400),
    st.integers(1, 4),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_nothing_repeated_is_missed(documents, cells, minimum, keep_first, random) -> None:  # type: ignore[no-untyped-def]
    keep_first = keep_first or minimum == 1
    order = list(documents)
    answers = ask(fill(documents, 5 * cells, minimum, keep_first, order), documents)
    random.shuffle(order)
    assert answers == ask(fill(documents, 5 * cells, minimum, keep_first, order), documents)  # nor does order matter
    holders = {value: [rank for rank in documents if value in documents[rank]] for value in range(31)}
    for rank, hashes in documents.items():
        for at, value in enumerate(hashes):
            first = rank == min(holders[value]) and value not in hashes[:at]
            if len(holders[value]) >= minimum and not (keep_first and first):
                assert answers[rank][at]


@pytest.mark.parametrize(("minimum", "keep_first"), [(1, True), (2, True), (2, False), (4, False)])
@pytest.mark.parametrize("load", [0.02, 0.1, 0.4, 1.0])
def test_measured_rate_is_the_expected_one(minimum: int, keep_first: bool, load: float) -> None:
    random = np.random.default_rng(1)
    cell_bytes = 4 * keep_first + (minimum > 1)
    count = 100_000
    seen = FirstSeen(int(count / load) * cell_bytes, minimum, keep_first, count // 50)
    hashes = random.integers(0, 2**64, count, np.uint64)
    # Preferred documents are long, as with the usual order of preference.
    lengths = np.diff([0, *np.sort(random.choice(np.arange(1, count), count // 50 - 1, replace=False)), count])
    offsets = np.concatenate([[0], np.cumsum(np.sort(lengths)[::-1])])
    every = Units(offsets, offsets, offsets, hashes, np.zeros(count, np.bool_))
    ranks = np.arange(count // 50, dtype=np.uint32)
    seen.add(0, every, ranks)
    facts = seen.decide()
    measured = int(seen.repeated(0, 0, every, ranks).sum())
    expected = facts["false_positives"] * count
    assert abs(measured - expected) < 0.03 * expected + 5 * math.sqrt(expected + 1)
    assert facts["distinct"] == pytest.approx(count, rel=0.02)
    assert facts["too_small"] == (facts["false_positives"] > 0.01)


def test_sufficient_memory_suffices() -> None:
    hashes = np.random.default_rng(2).integers(0, 2**64, 300_000, np.uint64)
    offsets = np.arange(0, 300_001, 100)
    every = Units(offsets, offsets, offsets, hashes, np.zeros(len(hashes), np.bool_))
    ranks = np.arange(3000, dtype=np.uint32)
    for minimum, keep_first in ((2, True), (2, False), (3, False)):
        small = FirstSeen(1 << 17, minimum, keep_first, 3000)
        small.add(0, every, ranks)
        facts = small.decide()
        assert facts["fill"] > 0.99
        assert facts["too_small"]
        enough = FirstSeen(int(facts["sufficient_megabytes"]) << 20, minimum, keep_first, 3000)
        enough.add(0, every, ranks)
        assert not enough.decide()["too_small"]
        assert enough.repeated(0, 0, every, ranks).mean() <= 0.01


@pytest.mark.parametrize(("minimum", "keep_first"), [(1, True), (2, True), (2, False), (300, False), (70_000, True)])
def test_memory_is_what_was_given(minimum: int, keep_first: bool) -> None:
    seen = FirstSeen(1 << 20, minimum, keep_first, 10)
    held = sum(value.nbytes for name, value in vars(seen).items() if name in ("_first", "_documents"))
    assert (1 << 20) - 8 < held <= 1 << 20


def test_counts_beyond_a_byte() -> None:
    one = units([7])
    for minimum, wanted in ((300, True), (301, False)):
        seen = FirstSeen(1 << 16, minimum, False, 300)
        for rank in range(300):
            seen.add(0, one, np.array([rank], np.uint32))
        assert seen.repeated(0, 0, one, np.zeros(1, np.uint32)).tolist() == [wanted]
