"""Sequences laid out as trees of tokens: what several of them begin with is computed once.

The choices of a question share its prompt, and few-shot prompts share their examples. In lexicographic order a sequence
shares most with the one before it, so that a row of tokens in depth-first order holds a whole tree: a token sees those
from which its place can be reached, which are the earlier ones whose subtree it lies in. Suffixes: N nodes of a row, S
sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

LONGEST = 1024
"""Most nodes of a row that holds more than one sequence: attention is computed between all nodes of a row."""


class Tree(NamedTuple):
    """A row of tokens in depth-first order."""

    tokens_N: Ints
    depths_N: Ints
    """Places in the sequences, from 0."""
    parents_N: Ints
    """-1 for the first token."""
    ends_N: Ints
    """Behind the last node of each node's subtree: node j sees node i where i <= j < ends_N[i]."""
    members: tuple[int, ...]
    """Which sequences lie in it, by their place in the list they came from."""
    paths: tuple[Ints, ...]
    """For each of them the nodes of its tokens."""


def plant(sequences: Sequence[Sequence[int]], longest: int = LONGEST, share: bool = True) -> list[Tree]:
    """Trees that hold all sequences (of one token at least), each with those that it shares much with.

    A sequence joins a row where at least a quarter of its tokens is there already, and the row stays within `longest`.
    `share`: False gives each sequence a row of its own.
    """
    order = sorted(range(len(sequences)), key=lambda index: (sequences[index], index))
    trees: list[Tree] = []
    row: list[tuple[int, int]] = []
    """(sequence, how many tokens it shares with the one before)."""
    size = 0
    for index in order:
        new = len(sequences[index])
        if row and share:
            common = _common(sequences[row[-1][0]], sequences[index])
            if 4 * common >= new and size + new - common <= longest:
                row.append((index, common))
                size += new - common
                continue
        if row:
            trees.append(_tree(sequences, row))
        row, size = [(index, 0)], new
    if row:
        trees.append(_tree(sequences, row))
    return trees


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens both begin with; halving, as comparing slices costs little."""
    most = min(len(first), len(second))
    if first[:most] == second[:most]:
        return most
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle
    return low


def _tree(sequences: Sequence[Sequence[int]], row: list[tuple[int, int]]) -> Tree:
    tokens: list[int] = []
    depths: list[int] = []
    parents: list[int] = []
    ends: list[int] = []
    path: list[int] = []
    paths: list[Ints] = []
    for index, common in row:
        for node in path[common:]:
            ends[node] = len(tokens)
        del path[common:]
        for depth in range(common, len(sequences[index])):
            parents.append(path[-1] if path else -1)
            path.append(len(tokens))
            tokens.append(sequences[index][depth])
            depths.append(depth)
            ends.append(0)
        paths.append(np.array(path, dtype=np.int64))
    for node in path:
        ends[node] = len(tokens)
    columns = [np.array(values, dtype=np.int64) for values in (tokens, depths, parents, ends)]
    tokens_N, depths_N, parents_N, ends_N = columns
    return Tree(tokens_N, depths_N, parents_N, ends_N, tuple(index for index, _ in row), tuple(paths))
