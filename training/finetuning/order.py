"""Which examples each step trains on: a pure function of the seed and the step, so that a resume goes on with it."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_POOL = 50
"""Batches among whose examples those of similar length are put together."""


class TaskItems(NamedTuple):
    """What the order knows of a task: the lengths of its items, and how often it is to be drawn."""

    lengths: Sequence[int]
    weight: float = 1.0


class Order:
    """Batches of one task at a time.

    A single task is passed over from end to end, again and again in another order. Of several each step draws one, in
    proportion to weight * items ** (1 / temperature) (Raffel et al. 2020, section 3.5.2), and takes that one's next
    batch.
    """

    def __init__(
        self,
        tasks: Sequence[TaskItems],
        batch_size: int,
        epochs: float,
        seed: int,
        temperature: float = 1.0,
        by_length: bool = True,
        max_steps: int = 0,
    ) -> None:
        self._tasks, self._size, self._seed, self._by_length = tasks, batch_size, seed, by_length
        self._batches = [math.ceil(len(task.lengths) / batch_size) for task in tasks]
        self.steps_per_epoch = sum(self._batches)
        self.steps = max(1, math.ceil(epochs * self.steps_per_epoch - 1e-9))
        if max_steps:
            self.steps = min(self.steps, max_steps)
        shares = np.array([task.weight * len(task.lengths) ** (1 / temperature) for task in tasks])
        self.shares = shares / shares.sum()
        random = np.random.default_rng([seed, 0])
        self._drawn = random.choice(len(tasks), size=self.steps, p=self.shares)
        self._number = np.zeros(self.steps, dtype=np.int64)
        for task in range(len(tasks)):
            mine = self._drawn == task
            self._number[mine] = np.arange(mine.sum())
        self._pass = functools.lru_cache(maxsize=2 * len(tasks))(self._batches_of)

    def batch(self, step: int) -> tuple[int, list[int]]:
        """The task of a step (from 0), and the places of the items."""
        task = int(self._drawn[step])
        turn, place = divmod(int(self._number[step]), self._batches[task])
        return task, self._pass(task, turn)[place]

    def _batches_of(self, task: int, turn: int) -> list[list[int]]:
        """All batches of one pass over a task."""
        lengths = np.asarray(self._tasks[task].lengths)
        random = np.random.default_rng([self._seed, 1 + task, turn])
        order = random.permutation(len(lengths))
        pool = _POOL * self._size
        if self._by_length:
            pools = [order[begin : begin + pool] for begin in range(0, len(order), pool)]
            order = np.concatenate([part[np.argsort(-lengths[part], kind="stable")] for part in pools])
        batches = [order[begin : begin + self._size].tolist() for begin in range(0, len(order), self._size)]
        if self._by_length:
            batches = [batches[place] for place in random.permutation(len(batches))]
        return batches
