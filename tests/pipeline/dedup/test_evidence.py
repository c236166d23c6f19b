from __future__ import annotations

from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.dedup.config import DedupConfig
from pipeline.dedup.evidence import EMPTY, Evidence, gather_evidence, holds, shingle_records, table_slots
from pipeline.dedup.shingles import PROOF, shingle_hashes
from pipeline.dedup.signatures import minhash
from pipeline.store import File
from pipeline.text.scan import word_hashes
from tests.pipeline.dedup.corpora import compiling

CONFIG = DedupConfig()

# Crowded at both ends and in the middle, so that searches run on, and around the end of the table.
HASHES = st.integers(0, 30) | st.integers(2**31, 2**31 + 9) | st.integers(2**32 - 31, 2**32 - 1)


@compiling
@given(st.lists(st.lists(HASHES | st.integers(0, 2**32 - 1), max_size=40), max_size=5), st.lists(HASHES, max_size=20))
def test_records_are_the_shingles_in_order_and_a_table_of_them(documents: list[list[int]], others: list[int]):
    offsets = np.cumsum([0, *map(len, documents)])
    starts, distinct, records = shingle_records(offsets, np.array(list(chain(*documents)), np.uint32))
    bounds = [*starts, len(records)]
    for number, document in enumerate(documents):
        shingles = [min(value, 2**32 - 2) for value in document]
        record = records[bounds[number] : bounds[number + 1]]
        table = record[len(shingles) :]
        assert record[: len(shingles)].tolist() == shingles
        assert len(table) == table_slots(len(shingles))
        assert sorted(table[table != EMPTY].tolist()) == sorted(set(shingles))
        assert distinct[number] == len(set(shingles))
        for value in [*shingles, *(other for other in others if other != EMPTY)]:
            assert holds(table, np.uint32(value)) == (value in shingles)


def written(path: Path, column: str, values: pa.Array, group_rows: int) -> File:
    pq.write_table(pa.table({column: values}), path, row_group_size=group_rows)
    return File(str(path), column, 0, len(values), path.stat().st_size, "")


def signatures_of(texts: list[str]) -> NDArray[np.uint32]:
    hashes = shingle_hashes(*word_hashes(pa.array(texts, pa.large_string())), CONFIG.shingle_words, PROOF)
    return minhash(*hashes, CONFIG.permutations, CONFIG.seed)


def shards(root: Path, texts: list[list[str]]) -> tuple[list[File], list[File]]:
    """Documents and their signatures, in row groups of different sizes."""
    documents, signatures = [], []
    for number, of_shard in enumerate(texts):
        values = [signature.tobytes() for signature in signatures_of(of_shard)]
        column = pa.array(values, pa.binary(4 * CONFIG.permutations))
        documents.append(
            written(root / f"{number}.documents", "text", pa.array(of_shard, pa.large_string()), 3 + number)
        )
        signatures.append(written(root / f"{number}.signatures", "signature", column, 5))
    return documents, signatures


def record(evidence: Evidence, number: int) -> list[int]:
    start, size = evidence.starts[number], evidence.shingles[number]
    return evidence.records[start : start + size + table_slots(size)].tolist()


TEXTS = [
    [" ".join(f"w{(place * seed) % 17}" for place in range(seed)) for seed in range(19)],
    [],
    ["我爱北京天安门", "", "two words", "爱北京天安门广场", "one", "a b c d e f", "a b c d e f", ""],
    [" ".join(f"x{place % seed}" for place in range(4 * seed)) for seed in range(1, 30)],
]


@pytest.mark.parametrize("threads", [1, 4])
def test_evidence_of_any_rows_in_any_order_of_preference(tmp_path: Path, threads: int):
    documents, signatures = shards(tmp_path, TEXTS)
    flat = list(chain(*TEXTS))
    positions = np.random.default_rng(threads).permutation(len(flat))[: len(flat) * 2 // 3]
    ranks = np.arange(7, 7 + 3 * len(positions), 3, dtype=np.uint32)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    evidence = gather_evidence(ranks, positions, documents, signatures, CONFIG, scratch, threads)
    texts = [flat[position] for position in positions]
    offsets, hashes = shingle_hashes(*word_hashes(pa.array(texts, pa.large_string())), CONFIG.shingle_words, PROOF)
    starts, distinct, records = shingle_records(offsets, hashes)
    bounds = [*starts, len(records)]
    np.testing.assert_array_equal(evidence.shingles, np.diff(offsets))
    np.testing.assert_array_equal(evidence.distinct, distinct)
    for number in range(len(texts)):
        assert record(evidence, number) == records[bounds[number] : bounds[number + 1]].tolist()
    np.testing.assert_array_equal(evidence.signatures[evidence.rows], signatures_of(texts))
    assert evidence.numbers(ranks[[5, 0]].astype(np.uint64)).tolist() == [5, 0]


def test_without_sets_only_signatures_are_read(tmp_path: Path):
    _, signatures = shards(tmp_path, TEXTS)
    positions = np.arange(sum(map(len, TEXTS)))[::-1]
    ranks = np.arange(len(positions), dtype=np.uint32)
    evidence = gather_evidence(ranks, positions, [], signatures, CONFIG, tmp_path, 2, with_sets=False)
    assert not evidence.shingles.any()
    assert len(evidence.records) == 0
    np.testing.assert_array_equal(evidence.signatures[evidence.rows], signatures_of(list(chain(*TEXTS))[::-1]))


def test_no_documents_in_question(tmp_path: Path):
    documents, signatures = shards(tmp_path, TEXTS)
    nothing = np.empty(0, np.int64)
    for files in ((documents, signatures), ([], [])):
        evidence = gather_evidence(nothing.astype(np.uint32), nothing, *files, CONFIG, tmp_path, 2)
        assert len(evidence.ranks) == len(evidence.records) == len(evidence.signatures) == 0


def test_a_shard_that_cannot_be_read_is_an_error(tmp_path: Path):
    documents, signatures = shards(tmp_path, TEXTS)
    Path(documents[2].path).unlink()
    positions = np.arange(sum(map(len, TEXTS)))
    with pytest.raises(FileNotFoundError):
        gather_evidence(positions.astype(np.uint32), positions, documents, signatures, CONFIG, tmp_path, 2)
