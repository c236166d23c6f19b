"""The numbers that objectives draw: uniform, independent, and a function of their arguments alone."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.objectives.noise import uniform

PLACES = torch.arange(200_000)
NO_VISIT = torch.zeros(1, dtype=torch.int64)
MASK = (1 << 64) - 1


def by_hand(place: int, visit: int, seed: int, stream: int) -> float:
    """The same in Python's integers."""

    def mixed(word: int) -> int:
        word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & MASK
        return word ^ (word >> 31)

    key = (seed * 0x9E3779B97F4A7C15 + stream * 0xD1B54A32D192ED03 + 0x2545F4914F6CDD1D) & MASK
    word = mixed((place * 0x9E3779B97F4A7C15 + mixed((visit + key) & MASK)) & MASK)
    return (word >> 40) / (1 << 24)


@given(
    place=st.integers(-1, 2**40), visit=st.integers(0, 1000), seed=st.integers(0, 2**31), stream=st.integers(0, 1000)
)
def test_it_is_the_generator_that_it_says(place: int, visit: int, seed: int, stream: int) -> None:
    found = uniform(torch.tensor([place]), torch.tensor([visit]), seed, stream)
    assert found.item() == by_hand(place, visit, seed, stream)


def test_numbers_are_uniform_and_independent() -> None:
    drawn = uniform(PLACES, NO_VISIT, 1, 0).numpy()
    assert drawn.dtype == np.float32
    assert 0 <= drawn.min() < drawn.max() < 1
    counts = np.bincount((drawn * 20).astype(int), minlength=20)
    expected = len(drawn) / 20
    assert ((counts - expected) ** 2 / expected).sum() < 43.8  # chi-square, 19 degrees of freedom, p = 0.001
    for other in (
        uniform(PLACES + 1, NO_VISIT, 1, 0),
        uniform(PLACES, NO_VISIT + 1, 1, 0),
        uniform(PLACES, NO_VISIT, 2, 0),
        uniform(PLACES, NO_VISIT, 1, 1),
    ):
        assert abs(np.corrcoef(drawn, other.numpy())[0, 1]) < 4 / len(drawn) ** 0.5


def test_a_part_is_drawn_as_the_whole() -> None:
    places, visits = PLACES[:60].view(3, 20), torch.tensor([[0], [1], [5]])
    whole = uniform(places, visits, 7, 3)
    assert torch.equal(whole[1:2, 5:], uniform(places[1:2, 5:], visits[1:2], 7, 3))
