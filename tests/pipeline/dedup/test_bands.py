from __future__ import annotations

import itertools
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dedup import bands
from pipeline.dedup.bands import (
    SignatureTable,
    bucket_pairs,
    candidate_pairs,
    collect_pairs,
    exact_representatives,
    preference_order,
    shared_keys,
)
from pipeline.store import File
from tests.pipeline.dedup.corpora import compiling


def table_of(columns: dict[str, list], folder: Path, shards: int = 3) -> SignatureTable:
    rows = pa.table({**columns, "band_000": pa.array(columns["band_000"], pa.uint64())})
    cuts = np.linspace(0, len(rows), shards + 1).astype(int)
    files = []
    for shard, (start, stop) in enumerate(itertools.pairwise(cuts)):
        path = folder / f"{9 - shard}'s.parquet"  # whose names sort otherwise
        pq.write_table(rows.slice(start, stop - start), path, row_group_size=5)
        files.append(File(str(path), "signatures", shard, int(stop - start), 0, ""))
    return SignatureTable(files, folder, 128, 2)


@pytest.fixture
def columns() -> dict[str, list]:
    random = np.random.default_rng(5)
    count = 60
    dates = [None, "2020-01-01", "2021-05-05T10:00:00Z"]
    return {
        "id": [f"{value:032x}" for value in random.permutation(count)],
        "shingles": random.integers(1, 6, count).tolist(),
        "date": [dates[value] for value in random.integers(0, 3, count)],
        "digest": [bytes([value]) * 16 for value in random.integers(0, 25, count)],
        "band_000": [None if value == 0 else 2**63 + int(value) for value in random.integers(0, 12, count)],
    }


def test_preference_is_a_total_order(columns: dict[str, list], tmp_path: Path):
    ids, shingles, dates = columns["id"], columns["shingles"], columns["date"]
    with table_of(columns, tmp_path) as table:
        longest, rank = preference_order(table, "longest")
        earliest, _ = preference_order(table, "earliest")
    last = "9999"
    expected = sorted(range(60), key=lambda at: (-shingles[at], dates[at] or last, ids[at]))
    assert longest.tolist() == expected
    assert rank[longest].tolist() == list(range(60))
    assert earliest.tolist() == sorted(range(60), key=lambda at: (dates[at] or last, -shingles[at], ids[at]))


@pytest.mark.parametrize("batch_rows", [1, 7, 1 << 20])
def test_groups_are_whole_however_they_are_cut(
    columns: dict[str, list], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_rows: int
):
    monkeypatch.setattr(bands, "BATCH_ROWS", batch_rows)
    with table_of(columns, tmp_path) as table:
        _, rank = preference_order(table, "longest")
        for key in ("band_000", "digest"):
            expected = defaultdict(list)
            for at, value in enumerate(columns[key]):
                if value is not None:
                    expected[value].append(int(rank[at]))
            groups = []
            for bounds, ranks in shared_keys(table, key, rank):
                groups += [ranks[a:b].tolist() for a, b in itertools.pairwise(bounds)]
            assert sorted(groups) == sorted(sorted(group) for group in expected.values() if len(group) > 1)
        representative = exact_representatives(table, rank)
        for at, digest in enumerate(columns["digest"]):
            same = [int(rank[other]) for other, value in enumerate(columns["digest"]) if value == digest]
            assert representative[rank[at]] == min(same)


@pytest.mark.parametrize("batch_rows", [3, 1 << 20])
def test_pairs_come_once_and_by_member(
    columns: dict[str, list], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_rows: int
):
    monkeypatch.setattr(bands, "BATCH_ROWS", batch_rows)
    with table_of(columns, tmp_path) as table:
        _, rank = preference_order(table, "longest")
        left_out = np.zeros(60, np.bool_)
        left_out[[3, 30]] = True
        occurs = collect_pairs(table, 1, rank, left_out, 256)
        chunks = [chunk.tolist() for chunk in candidate_pairs(table)]
    pairs = [pair for chunk in chunks for pair in chunk]
    expected = set()
    for left in range(60):
        for right in range(60):
            a, b = int(rank[left]), int(rank[right])
            key = columns["band_000"][left]
            if a > b and key is not None and key == columns["band_000"][right] and not left_out[[a, b]].any():
                expected.add(a << 32 | b)
    assert pairs == sorted(expected)
    members = [{pair >> 32 for pair in chunk} for chunk in chunks]
    assert sum(map(len, members)) == len(set().union(*members))
    assert set(np.flatnonzero(occurs)) == {rank for pair in pairs for rank in (pair >> 32, pair & 0xFFFFFFFF)}


@compiling
@given(st.lists(st.integers(1, 9), max_size=6), st.integers(2, 5), st.randoms(use_true_random=False))
def test_a_member_is_paired_with_the_first_and_its_nearest_predecessors(sizes: list[int], representatives: int, random):
    ranks = list(range(sum(sizes)))
    left_out = np.array([random.random() < 0.2 for _ in ranks], np.bool_)
    bounds = np.cumsum([0, *sizes])
    expected = []
    for start, stop in itertools.pairwise(bounds):
        members = [rank for rank in ranks[start:stop] if not left_out[rank]]
        for place, member in enumerate(members):
            others = {*members[:1], *members[max(0, place - representatives + 1) : place]} if place else set()
            expected += [member << 32 | other for other in sorted(others)]
    found = bucket_pairs(bounds, np.array(ranks, np.uint32), left_out, representatives)
    assert found.tolist() == expected


def test_pairs_are_linear_in_the_size_of_a_bucket():
    count = 1_000_000
    bounds, ranks = np.array([0, count]), np.arange(count, dtype=np.uint32)
    assert len(bucket_pairs(bounds, ranks, np.zeros(count, np.bool_), 8)) < 8 * count
