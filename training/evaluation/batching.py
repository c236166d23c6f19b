"""Sequences of different lengths in batches with little padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

POSITIONS = {"cpu": 2048, "cuda": 65536}
"""Positions of one forward pass. On a CPU larger ones are no faster."""


def groups(lengths: Sequence[int], limit: int) -> Iterator[list[int]]:
    """Indices of sequences, the longest first, whose number times longest stays under the limit (but for one alone)."""
    group: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        if group and (len(group) + 1) * lengths[group[0]] > limit:
            yield group
            group = []
        group.append(index)
    if group:
        yield group


class Padded(NamedTuple):
    """Ids (B, T) int64, and `documents` (B, T): 1 for text, 0 for padding; None where there is no padding."""

    ids_BT: Tensor
    documents_BT: Tensor | None


def padded(sequences: Sequence[NDArray[np.int64]], padding: int, device: torch.device) -> Padded:
    """Sequences of ids one below another, padded on the right."""
    lengths = np.array([len(sequence) for sequence in sequences])
    ids = np.full((len(sequences), int(lengths.max())), padding, dtype=np.int64)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = sequence
    documents = None
    if lengths.min() < lengths.max():
        documents = torch.from_numpy((np.arange(ids.shape[1]) < lengths[:, None]).astype(np.int64)).to(device)
    return Padded(torch.from_numpy(ids).to(device), documents)
