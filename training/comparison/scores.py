"""What held-out documents cost models of several seeds, in bits per byte."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_CHUNK = 1 << 22
"""Numbers of a matrix of draws that are held at once."""


@dataclass(frozen=True)
class Held:
    """The held-out documents: their UTF-8 lengths (D,), and the source of each (D,)."""

    text_bytes: Floats
    sources: NDArray[np.str_]

    def __post_init__(self) -> None:
        if self.text_bytes.shape != self.sources.shape or self.text_bytes.ndim != 1:
            raise ValueError(f"{self.text_bytes.shape} lengths for {self.sources.shape} sources of documents")
        if not len(self.text_bytes) or self.text_bytes.min() < 0 or self.text_bytes.sum() <= 0:
            raise ValueError("held-out documents must have lengths, and some text")

    def of(self, source: str) -> NDArray[np.int64]:
        """The documents of a source."""
        return np.flatnonzero(self.sources == source)


@dataclass(frozen=True)
class Scores:
    """One variant: by seed the nats of each held-out document (D,), end-of-text ids left out."""

    nats: Mapping[int, Floats]

    def matrix(self, seeds: list[int]) -> Floats:
        """(seeds, D)."""
        return np.stack([self.nats[seed] for seed in seeds])

    def bits_per_byte(self, held: Held, documents: NDArray[np.int64] | None = None) -> dict[int, float]:
        """By seed, over all documents or some."""
        chosen = slice(None) if documents is None else documents
        bits = math.log(2) * float(held.text_bytes[chosen].sum())
        return {seed: float(nats[chosen].sum()) / bits for seed, nats in self.nats.items()}


def strata_of(sources: NDArray[np.str_], least: int) -> list[NDArray[np.int64]]:
    """The documents of each source, and in one stratum together those of sources that have fewer than `least`."""
    found = [np.flatnonzero(sources == source) for source in np.unique(sources)]
    large = [documents for documents in found if len(documents) >= least]
    small = [documents for documents in found if len(documents) < least]
    return [*large, np.concatenate(small)] if small else large


def resampled(
    nats: Floats,
    text_bytes: Floats,
    resamples: int,
    generator: np.random.Generator,
    strata: Sequence[NDArray[np.int64]] | None = None,
) -> Floats:
    """Bits per byte of resampled documents: (resamples, V) for nats (V, D) and text_bytes (D,).

    Each resample draws as many documents of each stratum as it has, with replacement (the bootstrap of Efron 1979), the
    same ones for every row, so that differences between rows are paired by document.
    """
    documents = len(text_bytes)
    strata = [np.arange(documents)] if strata is None else strata
    found = np.empty((resamples, len(nats)))
    step = max(1, _CHUNK // documents)
    for first in range(0, resamples, step):
        count = min(step, resamples - first)
        begins = documents * np.arange(count)[:, None]
        drawn = [begins + one[generator.integers(len(one), size=(count, len(one)))] for one in strata]
        places = np.concatenate(drawn, axis=1).ravel()
        times = np.bincount(places, minlength=count * documents).reshape(count, documents).astype(np.float64)
        length = times @ text_bytes
        with np.errstate(divide="ignore", invalid="ignore"):
            found[first : first + count] = (times @ nats.T) / length[:, None] / math.log(2)
    return found
