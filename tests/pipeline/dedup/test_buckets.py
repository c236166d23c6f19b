from __future__ import annotations

import itertools
from collections import defaultdict
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dedup import buckets as dedup_buckets
from pipeline.dedup import index as dedup_index
from pipeline.dedup.buckets import bucket_pairs, buckets, mark_copies
from pipeline.dedup.index import Column
from tests.pipeline.dedup.corpora import compiling

COUNT = 60


class Rows:
    """Stands for the signature table: rows in an order that is not theirs, from a database in memory."""

    class index:
        known: tuple[()] = ()

    def __init__(self, keys: list[int | None]) -> None:
        import duckdb

        self._connection = duckdb.connect()
        table = pa.table({"position": np.arange(len(keys)), "key": pa.array(keys, pa.uint64())})
        self._connection.register("rows", table.take(np.random.default_rng(0).permutation(len(keys))))
        self._connection.execute("CREATE TABLE signatures AS SELECT * FROM rows")

    stream = dedup_index.SignatureTable.stream


@pytest.mark.parametrize("batch_rows", [1, 7, 1 << 20])
@pytest.mark.parametrize("scoped", [False, True])
def test_buckets_are_whole_however_they_are_cut(monkeypatch: pytest.MonkeyPatch, batch_rows: int, scoped: bool):
    monkeypatch.setattr(dedup_index, "BATCH_ROWS", batch_rows)
    random = np.random.default_rng(5)
    keys = [None if value == 0 else 2**63 + int(value) for value in random.integers(0, 12, COUNT)]
    ranks = random.permutation(COUNT).astype(np.uint32)
    scopes = random.integers(0, 2, COUNT).astype(np.uint64)
    expected = defaultdict(list)
    for at, key in enumerate(keys):
        if key is not None:
            expected[key, scopes[at] if scoped else 0].append(int(ranks[at]))
    found = []
    columns = Column([(0, ranks)]), Column([(0, scopes)]) if scoped else None
    for bounds, members in buckets(Rows(keys), "key", *columns):  # type: ignore[arg-type]
        found += [members[a:b].tolist() for a, b in itertools.pairwise(bounds)]
    assert sorted(bucket for bucket in found if len(bucket) > 1) == sorted(
        sorted(bucket) for bucket in expected.values() if len(bucket) > 1
    )


@compiling
@given(
    st.lists(st.integers(1, 9), max_size=6), st.integers(2, 5), st.integers(0, 12), st.randoms(use_true_random=False)
)
def test_a_new_member_is_paired_with_the_first_and_its_nearest_predecessors(
    sizes: list[int], representatives: int, start: int, random
):
    ranks = list(range(sum(sizes)))
    left_out = np.array([random.random() < 0.2 for _ in ranks], np.bool_)
    bounds = np.cumsum([0, *sizes])
    expected = []
    for begin, end in itertools.pairwise(bounds):
        members = [rank for rank in ranks[begin:end] if not left_out[rank]]
        for place, member in enumerate(members):
            others = {*members[:1], *members[max(0, place - representatives + 1) : place]} if place else set()
            expected += [member << 32 | other for other in sorted(others) if member >= start]
    for most in (1, 7, 1 << 20):  # pairs at a time
        with mock.patch.object(dedup_buckets, "PAIRS", most):
            pieces = list(bucket_pairs(bounds, np.array(ranks, np.uint32), left_out, start, representatives))
        assert [pair for piece in pieces for pair in piece.tolist()] == expected
        assert all(0 < len(piece) <= max(most, representatives) for piece in pieces)


def test_pairs_are_linear_in_the_size_of_a_bucket_and_come_in_pieces():
    count = 1_000_000
    bounds, ranks = np.array([0, count]), np.arange(count, dtype=np.uint32)
    pieces = [len(piece) for piece in bucket_pairs(bounds, ranks, np.zeros(count, np.bool_), 0, 8)]
    assert sum(pieces) == 8 * count - 36  # the first eight have fewer than eight before them
    assert max(pieces) <= dedup_buckets.PAIRS


def test_copies_name_the_most_preferred_of_those_that_count():
    bounds, ranks = np.array([0, 3, 6, 8]), np.array([1, 4, 7, 0, 5, 6, 2, 8], np.uint32)
    left_out = np.array([False, False, False, True, False, False, True, False])
    first, copy = np.arange(4, 9, dtype=np.uint32), np.zeros(5, np.uint8)
    mark_copies(bounds, ranks, left_out, 4, np.uint8(7), first, copy)  # ranks below 4 are known
    assert first.tolist() == [1, 5, 5, 1, 8]
    assert copy.tolist() == [7, 0, 7, 7, 0]


def test_a_column_of_several_runs():
    parts = [np.arange(5, dtype=np.uint32), np.arange(10, 13, dtype=np.uint32)]
    column = Column([(0, parts[0])]).extended(5, parts[1]).extended(8, np.array([99], np.uint32))
    at = np.array([8, 0, 5, 7, 4], np.uint32)
    assert column[at].tolist() == [99, 0, 10, 12, 4]
    assert column[at.astype(np.int64)].tolist() == [99, 0, 10, 12, 4]
    assert column[at[:0]].tolist() == []
    assert Column([(5, parts[1])])[np.array([6])].tolist() == [11]
