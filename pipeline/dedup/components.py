"""Connected components of the candidate pairs: deduplication without verification, for comparison with others."""

from __future__ import annotations

from collections.abc import Iterable

import numba
import numpy as np
from numpy.typing import NDArray

from pipeline.dedup.evidence import Evidence
from pipeline.dedup.verification import NONE

_32 = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)


@numba.njit(nogil=True, cache=True)
def _root(parents: NDArray[np.int64], node: int) -> int:
    while parents[node] != node:
        parents[node] = parents[parents[node]]
        node = parents[node]
    return node


@numba.njit(nogil=True, cache=True)
def _unite(parents: NDArray[np.int64], left: NDArray[np.int64], right: NDArray[np.int64]) -> None:
    for at in range(len(left)):
        a, b = _root(parents, left[at]), _root(parents, right[at])
        parents[max(a, b)] = min(a, b)  # the smallest number, the most preferred, stays the root


@numba.njit(nogil=True, cache=True)
def _flatten(parents: NDArray[np.int64]) -> None:
    for node in range(len(parents)):
        parents[node] = _root(parents, node)


def component_twins(evidence: Evidence, pairs: Iterable[NDArray[np.uint64]]) -> NDArray[np.int64]:
    """Twin by number of the evidence: the most preferred document of the same component, NONE for that one itself."""
    parents = np.arange(len(evidence.ranks))
    for packed in pairs:
        _unite(parents, evidence.numbers(packed >> _32), evidence.numbers(packed & _LOW))
    _flatten(parents)
    return np.where(parents == np.arange(len(parents)), NONE, parents)
