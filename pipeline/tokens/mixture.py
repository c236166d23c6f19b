"""The mixture: how often the documents of each source are read in training."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.tokens.split import id_bits, mix

_MIXTURE_STREAM = 0x5EED_0003
RULE = "tokenize.mixture"


def draws(ids: pa.Array) -> NDArray[np.float64]:
    """Return a number in [0, 1) for each document id, independent of its split and of the tokenizer's sample."""
    return mix(id_bits(ids), 0, _MIXTURE_STREAM).astype(np.float64) / 2.0**64


def copies(drawn: NDArray[np.float64], sources: pa.Array, weights: Mapping[str, float]) -> NDArray[np.int64]:
    """Return how often each document is read, its source's weight on average.

    The whole part of the weight is for every document, the rest for those that are drawn, so a larger weight only adds
    documents. 1 where a source has no weight.
    """
    if not weights:
        return np.ones(len(drawn), np.int64)
    weight = np.array([weights.get(source, 1.0) for source in sources.to_pylist()], np.float64)
    return (np.floor(weight) + (drawn < weight % 1.0)).astype(np.int64)
