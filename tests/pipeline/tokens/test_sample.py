from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.store import Store
from pipeline.tokens.sample import candidates, quotas, sampled_texts, taken_bytes
from pipeline.tokens.split import split_of
from tests.pipeline.tokens.corpus import as_table, committed_documents, make_documents

SIZES = st.lists(st.integers(0, 10_000), min_size=1, max_size=12)


@given(SIZES, st.integers(1, 30_000), st.floats(0, 1))
def test_quotas_fill_the_budget_and_never_exceed_it(sizes: list[int], budget: int, exponent: float) -> None:
    available = np.array(sizes, np.int64)
    granted = quotas(available, budget, exponent)
    assert np.all(granted <= available)
    assert np.all(granted >= 0)
    whole = min(budget, int(available.sum()))
    assert whole - len(sizes) <= granted.sum() <= whole


@given(SIZES, st.integers(1, 30_000), st.floats(0, 1))
def test_strata_that_are_cut_share_by_the_exponent(sizes: list[int], budget: int, exponent: float) -> None:
    available = np.array(sizes, np.int64)
    granted = quotas(available, budget, exponent)
    cut = granted < available
    rates = granted[cut] / available[cut] ** exponent
    if len(rates) > 1 and granted[cut].min() > 100:
        assert rates.max() / rates.min() < 1.03
    if cut.any() and not cut.all():  # a stratum taken whole would have got no less
        assert np.all((available[~cut] ** exponent * rates.max()) >= available[~cut] * 0.97 - 3)


def test_small_strata_are_lifted() -> None:
    available = np.array([900_000, 90_000, 10_000])
    by_share = quotas(available, 100_000, 1.0)
    levelled = quotas(available, 100_000, 0.5)
    assert by_share.tolist() == [90_000, 9_000, 1_000]
    assert levelled[2] > 3 * by_share[2]
    assert quotas(available, 100_000, 0.0).tolist() == [45_000, 45_000, 10_000]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 100)), max_size=40), st.integers(0, 1500))
def test_taken_bytes_against_a_plain_loop(documents: list[tuple[int, int]], quota: int) -> None:
    stratum = np.array([s for s, _ in documents], np.int32)
    sizes = np.array([n for _, n in documents], np.int64)
    order = np.random.default_rng(0).integers(0, 2**63, len(documents)).astype(np.uint64)
    limits = np.array([quota, quota // 2, 0])
    expected = [0] * len(documents)
    left = limits.tolist()
    for i in np.argsort(order, kind="stable"):
        expected[i] = min(left[stratum[i]], int(sizes[i]))
        left[stratum[i]] -= expected[i]
    assert taken_bytes(order, sizes, stratum, limits).tolist() == expected


@pytest.fixture(scope="module")
def documents() -> list[dict]:
    return make_documents(150)


def test_candidates_are_the_training_documents(tmp_path: Path, documents: list[dict]) -> None:
    files = committed_documents(Store.at(tmp_path), documents).committed().files("documents")
    found = candidates(files, 0.2, 1, 0)
    table = as_table(documents)
    held_out = split_of(table["id"], 0.2, 1)
    assert 0 < held_out.sum() < len(documents)
    assert len(found.row) == (~held_out).sum()
    everything = np.full(len(found.row), 1 << 40)
    texts = list(sampled_texts(files, found, np.minimum(everything, found.bytes)))
    assert texts == [d["text"] for d, out in zip(documents, held_out, strict=True) if not out]
    names = [found.names[code] for code in found.stratum]
    assert names == [
        (d["source"], d["language"] or "und") for d, out in zip(documents, held_out, strict=True) if not out
    ]
    assert found.names == sorted(found.names)


def test_a_document_at_the_limit_is_cut_at_a_character(tmp_path: Path, documents: list[dict]) -> None:
    files = committed_documents(Store.at(tmp_path), documents).committed().files("documents")
    found = candidates(files, 0.0, 0, 0)
    taken = np.minimum(found.bytes, 100)
    texts = list(sampled_texts(files, found, taken))
    assert all(d["text"].startswith(text) for d, text in zip(documents, texts, strict=True))
    assert all(97 <= len(text.encode()) <= 100 for text in texts)
