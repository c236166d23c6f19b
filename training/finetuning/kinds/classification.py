"""A class for a text, or for a pair of texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.finetuning import metrics
from training.finetuning.kinds.kind import Item, Kind, class_weights, learned_labels, place_of
from training.finetuning.metrics import Ints
from training.finetuning.network import Network
from training.finetuning.sequences import Encoded, Ids
from training.finetuning.tables import Row


class Texts(NamedTuple):
    """An example: one text or two, and what is to be found."""

    first: str
    second: str | None
    target: float
    """The place of the class, or the number of a regression."""


class OfTexts(Kind):
    """What the kinds that read a text or a pair have in common."""

    @property
    def pairs(self) -> bool:
        """Whether there are two texts."""
        return bool(self.task.columns.second)

    def target(self, row: Row) -> float:
        """What is to be found."""
        raise NotImplementedError

    def examples(self, rows: Sequence[Row]) -> list[Texts]:
        """A text or two, and the target, of each row."""
        columns = self.task.columns
        return [
            Texts(row.text(columns.text), row.text(columns.second) if self.pairs else None, self.target(row))
            for row in rows
        ]

    def items(self, examples: Sequence[Texts], training: bool) -> list[Item]:
        """A sequence each."""
        encoded = self._encoded(examples)
        return [Item(place, (one,), examples[place].target) for place, one in enumerate(encoded)]

    def truncated(self, examples: Sequence[Texts]) -> int:
        """How many exceed the longest input."""
        room = self.reader.room if self.pairs else self.reader.max_length - self.reader.framing
        return sum(sum(map(len, ids)) > room for ids in self._ids(examples))

    def scores(self, network: Network, items: Sequence[Item]) -> Tensor:
        """(N, C)."""
        return network.of_sequences(self.task.name, [item.sequences[0] for item in items])

    def _encoded(self, examples: Sequence[Texts]) -> list[Encoded]:
        return [self.reader.pair(*ids) if self.pairs else self.reader.single(ids[0]) for ids in self._ids(examples)]

    def _ids(self, examples: Sequence[Texts]) -> list[tuple[Ids, ...]]:
        sides = [[example.first for example in examples]]
        if self.pairs:
            sides.append([example.second or "" for example in examples])
        return list(zip(*(self.reader.ids(side) for side in sides), strict=True))


class Classification(OfTexts):
    """One of several classes, by cross-entropy."""

    _weights_C: np.ndarray[Any, Any] | None = None

    def learn(self, rows: Sequence[Row]) -> None:
        """Labels and class weights."""
        self.labels = self.task.labels or learned_labels(self.task, rows)
        targets = [int(self.target(row)) for row in rows]
        self._weights_C = class_weights(self.task, targets, len(self.labels))

    @property
    def outputs(self) -> int:
        """A logit for each class."""
        return len(self.labels)

    def target(self, row: Row) -> float:
        """The place of the row's label."""
        return place_of(row.text(self.task.columns.label), self.labels, row)

    def loss(self, scores: Tensor, items: Sequence[Item]) -> Tensor:
        """Cross-entropy, each example times the weight of its class."""
        targets_N = torch.tensor([int(item.target) for item in items], device=scores.device)
        weights_C = None if self._weights_C is None else torch.from_numpy(self._weights_C).to(scores.device)
        return F.cross_entropy(scores, targets_N, weights_C, reduction="sum", label_smoothing=self.label_smoothing)

    def weight(self, items: Sequence[Item]) -> float:
        """The summed weights of the examples' classes."""
        if self._weights_C is None:
            return float(len(items))
        return float(sum(self._weights_C[int(item.target)] for item in items)) or 1.0

    def outcomes(self, scores: Tensor, items: Sequence[Item]) -> list[Any]:
        """The probabilities of the classes."""
        return list(torch.softmax(scores.float(), dim=-1).cpu().numpy())

    def predictions(self, examples: Sequence[Any], items: Sequence[Item], outcomes: Sequence[Any]) -> list[Any]:
        """The likeliest class and its probability."""
        return [
            {"label": self.labels[int(one.argmax())], "probability": round(float(one.max()), 6)} for one in outcomes
        ]

    def metrics(self, examples: Sequence[Texts], predictions: Sequence[Any]) -> dict[str, float]:
        """accuracy, matthews, f1 (of two classes the second's, otherwise the classes' mean), f1_macro."""
        places = {label: place for place, label in enumerate(self.labels)}
        return self._judged(examples, np.array([places[one["label"]] for one in predictions]))

    def baseline(self, training: Sequence[Texts], examples: Sequence[Texts]) -> dict[str, float]:
        """Those of the most frequent class of the training examples."""
        most = Counter(int(example.target) for example in training).most_common(1)[0][0]
        return self._judged(examples, np.full(len(examples), most))

    def _judged(self, examples: Sequence[Texts], predicted_N: Ints) -> dict[str, float]:
        right_N = np.array([int(example.target) for example in examples])
        macro = metrics.f1_macro(predicted_N, right_N)
        return {
            "accuracy": metrics.accuracy(predicted_N, right_N),
            "f1": metrics.f1(predicted_N, right_N) if len(self.labels) == 2 else macro,
            "f1_macro": macro,
            "matthews": metrics.matthews(predicted_N, right_N, len(self.labels)),
        }
