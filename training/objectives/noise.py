"""Random numbers as a function of where a token stands in the corpus and how often it has been visited.

The same text in the same epoch gets the same mask on every device, in every micro-batch and at any number of processes,
and a validation set gets the same masks each time; nothing has to be kept for a resume.
"""

from __future__ import annotations

import torch
from torch import Tensor

_BITS = 24  # what a float32 in [0, 1) holds


def uniform(places: Tensor, visits: Tensor, seed: int, stream: int) -> Tensor:
    """Numbers in [0, 1), float32, of the shape of `places`; another `stream` gives independent ones.

    `places` int64: positions in the corpus; `visits` int64, which broadcasts against it: epochs. A counter-based
    generator (Salmon et al. 2011): the finaliser of SplitMix64 (Steele, Lea & Flood 2014, figure 16), twice.
    """
    key = _signed((seed * 0x9E3779B97F4A7C15 + stream * 0xD1B54A32D192ED03 + 0x2545F4914F6CDD1D) % (1 << 64))
    words = _mixed(places * _signed(0x9E3779B97F4A7C15) + _mixed(visits + key))
    return _shifted(words, 64 - _BITS).to(torch.float32) * 2.0**-_BITS


def _mixed(words: Tensor) -> Tensor:
    words = (words ^ _shifted(words, 30)) * _signed(0xBF58476D1CE4E5B9)
    words = (words ^ _shifted(words, 27)) * _signed(0x94D049BB133111EB)
    return words ^ _shifted(words, 31)


def _shifted(words: Tensor, bits: int) -> Tensor:
    """A shift to the right that fills with zeros; torch's own keeps the sign."""
    return (words >> bits) & ((1 << (64 - bits)) - 1)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >= 1 << 63 else word
