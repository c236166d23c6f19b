from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.tokens.split import id_bits, sample_order, split_of

ID = st.text("0123456789abcdef", min_size=32, max_size=32)


def ids_of(count: int, seed: int = 0) -> pa.Array:
    rng = np.random.default_rng(seed)
    return pa.array([rng.bytes(16).hex() for _ in range(count)])


def splitmix64(x: int) -> int:
    mask = (1 << 64) - 1
    x = (x + 0x9E3779B97F4A7C15) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)


@given(st.lists(ID, max_size=20))
def test_id_bits_are_the_first_16_digits(ids: list[str]) -> None:
    expected = [int(i[:16], 16) for i in ids]
    assert id_bits(pa.array(ids, pa.string())).tolist() == expected
    assert id_bits(pa.chunked_array([ids[:3], ids[3:]], pa.large_string())).tolist() == expected
    assert id_bits(pa.array(["00" * 16, *ids], pa.string()).slice(1)).tolist() == expected


@given(st.lists(ID, max_size=20), st.floats(0, 0.99), st.integers(0, 2**63))
def test_split_is_the_published_hash_below_the_fraction(ids: list[str], fraction: float, seed: int) -> None:
    key = splitmix64(seed ^ (0x5EED0001 << 32))
    expected = [splitmix64(int(i[:16], 16) ^ key) < int(fraction * 2**64) for i in ids]
    assert split_of(pa.array(ids, pa.string()), fraction, seed).tolist() == expected


def test_share_is_the_fraction_and_a_larger_fraction_only_adds() -> None:
    ids = ids_of(20_000)
    small, large = split_of(ids, 0.05, 7), split_of(ids, 0.2, 7)
    assert abs(small.mean() - 0.05) < 0.01
    assert abs(large.mean() - 0.2) < 0.01
    assert not np.any(small & ~large)
    assert not split_of(ids, 0.0, 7).any()


def test_another_seed_holds_out_other_documents() -> None:
    ids = ids_of(20_000)
    both = (split_of(ids, 0.1, 1) & split_of(ids, 0.1, 2)).mean()
    assert abs(both - 0.01) < 0.005  # independent: 0.1 * 0.1


def test_the_sample_is_independent_of_the_split() -> None:
    ids = ids_of(20_000)
    first_half = sample_order(ids, 0) < np.uint64(1 << 63)
    assert abs(split_of(ids, 0.2, 0)[first_half].mean() - 0.2) < 0.02


@pytest.mark.parametrize("wrong", ["0123", "x" * 32, None])
def test_an_id_that_is_none_is_refused(wrong: str | None) -> None:
    with pytest.raises(ValueError, match="hex"):
        id_bits(pa.array(["0" * 32, wrong], pa.string()))


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_a_fraction_out_of_range_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match="validation_fraction"):
        split_of(ids_of(1), fraction, 0)
