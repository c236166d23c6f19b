"""What every kind of task does: rows into examples, examples into items of sequences, outputs into predictions.

Shape suffixes: B sequences, T tokens, N examples or items, C outputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from training.finetuning.config import TaskConfig
from training.finetuning.network import Network
from training.finetuning.sequences import Encoded, Reader
from training.finetuning.tables import Row

IGNORED = -100
"""Target of what is not learned."""


@dataclass(frozen=True)
class Item:
    """What is never split between batches: an example, or a window of one."""

    example: int
    """Place of its example."""
    sequences: tuple[Encoded, ...]
    target: Any
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Tokens of its longest sequence."""
        return max(len(one.ids) for one in self.sequences)


class Kind(ABC):
    """One task of a kind. `learn` must have seen the training rows, unless `labels` are given."""

    of_tokens: ClassVar[bool] = False
    """Whether the head reads every token."""
    has_head: ClassVar[bool] = True

    def __init__(self, task: TaskConfig, reader: Reader, label_smoothing: float = 0.0) -> None:
        self.task, self.reader, self.label_smoothing = task, reader, label_smoothing
        self.labels: tuple[str, ...] = task.labels

    def learn(self, rows: Sequence[Row]) -> None:
        """Take from the training rows what the task does not say: its labels, the weights of its classes."""
        return

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Numbers that the head gives."""

    @abstractmethod
    def examples(self, rows: Sequence[Row]) -> list[Any]:
        """Rows as examples; raises ValueError naming the row for a missing column or a label outside the set."""

    @abstractmethod
    def items(self, examples: Sequence[Any], training: bool) -> list[Item]:
        """Examples as sequences of ids."""

    @abstractmethod
    def scores(self, network: Network, items: Sequence[Item]) -> Tensor:
        """The outputs for items."""

    @abstractmethod
    def loss(self, scores: Tensor, items: Sequence[Item]) -> Tensor:
        """The summed loss of items, a float32 scalar; divided by `weight` it is their mean."""

    def weight(self, items: Sequence[Item]) -> float:
        """What the sum of `loss` is divided by."""
        return float(len(items))

    @abstractmethod
    def outcomes(self, scores: Tensor, items: Sequence[Item]) -> list[Any]:
        """For each item what `predictions` needs of its scores."""

    @abstractmethod
    def predictions(self, examples: Sequence[Any], items: Sequence[Item], outcomes: Sequence[Any]) -> list[Any]:
        """For each example what the model says, as JSON."""

    @abstractmethod
    def metrics(self, examples: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
        """What the predictions are worth."""

    def baseline(self, training: Sequence[Any], examples: Sequence[Any]) -> dict[str, float]:
        """The metrics of one who knows nothing but the training examples' labels; empty where there is none."""
        return {}

    def truncated(self, examples: Sequence[Any]) -> int:
        """How many examples lose a part of their text."""
        return 0

    @property
    def label_column(self) -> str:
        """The column of what is to be found."""
        return self.task.columns.label

    def blank(self, row: Row) -> Any:
        """What stands for the label of a row that has none."""
        return self.labels[0] if self.labels else "0"

    def restore(self, description: Mapping[str, Any]) -> None:
        """Take from `describe`, as a checkpoint's config.json has it, what `learn` would have found."""
        self.labels = tuple(description.get("labels", ()))

    def describe(self) -> dict[str, Any]:
        """What a checkpoint's config.json says of the task."""
        return {"name": self.task.name, "kind": self.task.kind, "labels": list(self.labels)}


def learned_labels(task: TaskConfig, rows: Sequence[Row]) -> tuple[str, ...]:
    """The labels of training rows, sorted, numbers by their size; raises ValueError for fewer than two."""
    found = {row.text(task.columns.label) for row in rows}
    if len(found) < 2:
        raise ValueError(f"tasks.{task.name}: {task.train}: holds {len(found)} class(es); two are needed to learn from")
    return tuple(sorted(found, key=lambda label: (0, int(label), "") if label.isdecimal() else (1, 0, label)))


def class_weights(task: TaskConfig, targets_N: Sequence[int], classes: int) -> NDArray[np.float32]:
    """The weight of each class in the loss; balanced: examples / (classes times examples of the class)."""
    if isinstance(task.class_weights, tuple):
        return np.array(task.class_weights, dtype=np.float32)
    if task.class_weights == "none":
        return np.ones(classes, dtype=np.float32)
    counts = Counter(targets_N)
    return np.array(
        [len(targets_N) / (classes * counts[place]) if counts[place] else 0.0 for place in range(classes)],
        dtype=np.float32,
    )


def place_of(label: str, labels: Sequence[str], row: Row) -> int:
    """The place of a label; raises ValueError naming the row where it is none of the set."""
    try:
        return labels.index(label)
    except ValueError:
        shown = ", ".join(labels[:20])
        raise ValueError(f"{row.place}: label {label!r} is none of {shown}") from None
