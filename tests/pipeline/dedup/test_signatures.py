from __future__ import annotations

import datasketch
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dedup.config import DedupConfig
from pipeline.dedup.shingles import shingle_hashes
from pipeline.dedup.signatures import EMPTY, band_column, band_keys, minhash, signature_schema, signature_table
from pipeline.text.scan import word_hashes
from tests.pipeline.dedup.corpora import compiling, shard

WORDS = st.sampled_from(
    [*"abcdefghij", "don't", "Straße", "中", "文", "字", "のの", "ภาษา", "한국어", "слово", "!", "—"]
)
TEXTS = st.lists(WORDS, max_size=80).map(" ".join) | st.lists(WORDS, max_size=80).map("".join) | st.text(max_size=200)
HASHES = st.lists(st.lists(st.integers(0, 2**32 - 1), max_size=23), min_size=1, max_size=5)


def reference(hashes: list[int], count: int, seed: int) -> datasketch.MinHash:
    sketch = datasketch.MinHash(count, seed, hashfunc=lambda value: value, scheme="affine32")
    sketch.update_batch(hashes)
    return sketch


@compiling
@given(HASHES, st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_signatures_are_those_of_datasketch(documents: list[list[int]], count: int, seed: int):
    offsets = np.cumsum([0, *map(len, documents)])
    hashes = np.array([value for document in documents for value in document], np.uint32)
    signatures = minhash(offsets, hashes, count, seed)
    assert signatures.dtype == np.uint32
    for signature, document in zip(signatures, documents, strict=True):
        np.testing.assert_array_equal(signature, reference(document, count, seed).hashvalues)


@compiling
@given(
    st.lists(TEXTS, min_size=1, max_size=4),
    st.sampled_from([(14, 8), (1, 1), (5, 3), (16, 1), (17, 1), (9, 13)]),
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 2, 3, 5, 8, 13, 64]),
)
def test_a_table_of_signatures_is_those_of_datasketch(
    texts: list[str], shape: tuple[int, int], seed: int, shingle_words: int
):
    config = DedupConfig(bands=shape[0], rows=shape[1], seed=seed, shingle_words=shingle_words)
    table = signature_table(shard(texts), config)
    assert table.schema.equals(signature_schema(config))
    offsets, hashes = shingle_hashes(*word_hashes(pa.array(texts, pa.large_string())), config.shingle_words)
    for text, row in enumerate(table.to_pylist()):
        expected = reference(hashes[offsets[text] : offsets[text + 1]].tolist(), config.permutations, config.seed)
        assert row["signature"] == expected.hashvalues.astype("<u4").tobytes()
        assert row["shingles"] == offsets[text + 1] - offsets[text]
        assert row["text_bytes"] == len(texts[text].encode())
        assert (row[band_column(0)] is None) == (row["shingles"] == 0) == expected.is_empty()


def test_signatures_do_not_depend_on_the_batch():
    texts = ["one two three four five six seven", "", "Ünïcode 文字 words", "x " * 700, "one"]
    whole = signature_table(shard(texts), DedupConfig())
    parts = [signature_table(shard(texts).slice(row, 1), DedupConfig()) for row in range(len(texts))]
    assert pa.concat_tables(parts).combine_chunks().equals(whole.combine_chunks())
    assert len(signature_table(shard([]), DedupConfig())) == 0


def test_large_batches_are_those_of_datasketch():
    random = np.random.default_rng(5)
    sizes = [200_000, 0, 3, 90_000, *[400] * 300, 100_000]  # parts of one document and of many
    texts = [" ".join(f"w{word}" for word in random.integers(5000, size=size)) for size in sizes]
    table = signature_table(shard(texts), DedupConfig())
    offsets, hashes = shingle_hashes(*word_hashes(pa.array(texts, pa.large_string())), 5)
    for row in (0, 1, 2, 3, 4, 150, 302, 303, 304):
        expected = reference(hashes[offsets[row] : offsets[row + 1]].tolist(), 112, 1)
        assert table["signature"][row].as_py() == expected.hashvalues.astype("<u4").tobytes()
        assert table["shingles"][row].as_py() == max(sizes[row] - 4, min(sizes[row], 1))


def test_estimates_are_close_to_the_truth():
    random = np.random.default_rng(3)
    pool = random.permutation(2**24).astype(np.uint32)
    for share in (0.2, 0.5, 0.9):
        common = round(2000 * share)
        hashes = np.concatenate([pool[:2000], pool[:common], pool[2000 : 4000 - common]])
        left, right = minhash(np.array([0, 2000, 4000]), hashes, 1024, 7)
        assert np.mean(left == right) == pytest.approx(common / (4000 - common), abs=0.06)  # four standard errors


@compiling
@given(st.integers(0, 2**32 - 1))
def test_band_keys_agree_just_where_the_rows_do(seed: int):
    signatures = np.random.default_rng(seed).integers(0, 2, (30, 12), dtype=np.uint32)
    for bands in (1, 3, 4, 6, 12):
        keys = band_keys(signatures, bands, 12 // bands)
        assert keys.shape == (bands, 30)
        for band, rows in enumerate(np.split(signatures, bands, axis=1)):
            same_rows = (rows[:, None] == rows[None, :]).all(axis=2)
            np.testing.assert_array_equal(keys[band][:, None] == keys[band][None, :], same_rows)


def test_values_beyond_the_last_band_count_for_none():
    signatures = np.arange(26, dtype=np.uint32).reshape(2, 13)
    keys = band_keys(signatures, 3, 4)
    signatures[:, 12] = 7
    np.testing.assert_array_equal(band_keys(signatures, 3, 4), keys)


def test_a_document_without_words_has_no_signature():
    (row,) = signature_table(shard(["?! \n"]), DedupConfig(bands=2, rows=3)).to_pylist()
    assert row["signature"] == EMPTY.tobytes() * 6
    assert row["shingles"] == 0
    assert row[band_column(0)] is row[band_column(1)] is None
