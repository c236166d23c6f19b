"""The right one of several continuations: a score for each, a softmax over those of one example (SWAG, COPA)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.finetuning import metrics
from training.finetuning.kinds.kind import Item, Kind
from training.finetuning.network import Network
from training.finetuning.tables import Row


class Question(NamedTuple):
    """A question or premise, its choices, and the place of the right one."""

    text: str
    choices: tuple[str, ...]
    target: int


class MultipleChoice(Kind):
    """Each choice is read with the question as a pair; examples may differ in their number of choices."""

    @property
    def outputs(self) -> int:
        """A score for each sequence."""
        return 1

    def examples(self, rows: Sequence[Row]) -> list[Question]:
        """Questions; the label is the place of the right choice, from 0."""
        return [self._question(row) for row in rows]

    def _question(self, row: Row) -> Question:
        columns = self.task.columns
        if len(columns.choices) == 1 and isinstance(row.value(columns.choices[0]), list):
            choices = tuple(str(choice) for choice in row.value(columns.choices[0]))
        else:
            choices = tuple(row.text(column) for column in columns.choices)
        label = row.text(columns.label)
        places = self.task.labels or tuple(str(place) for place in range(len(choices)))
        if len(choices) < 2:
            raise ValueError(f"{row.place}: {len(choices)} choice(s); a question needs two or more")
        if label not in places or places.index(label) >= len(choices):
            raise ValueError(f"{row.place}: label {label!r} is none of {', '.join(places[: len(choices)])}")
        return Question(row.text(columns.text), choices, places.index(label))

    def items(self, examples: Sequence[Question], training: bool) -> list[Item]:
        """A sequence for each choice."""
        questions = self.reader.ids([example.text for example in examples])
        choices = iter(self.reader.ids([choice for example in examples for choice in example.choices]))
        return [
            Item(place, tuple(self.reader.pair(question, next(choices)) for _ in example.choices), example.target)
            for place, (question, example) in enumerate(zip(questions, examples, strict=True))
        ]

    def scores(self, network: Network, items: Sequence[Item]) -> Tensor:
        """(N, most choices), minus infinity where an example has fewer."""
        flat_B = network.of_sequences(self.task.name, [one for item in items for one in item.sequences])[:, 0]
        rows = flat_B.split([len(item.sequences) for item in items])
        return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=float("-inf"))

    def loss(self, scores: Tensor, items: Sequence[Item]) -> Tensor:
        """Cross-entropy over the choices."""
        targets_N = torch.tensor([item.target for item in items], device=scores.device)
        return F.cross_entropy(scores, targets_N, reduction="sum")

    def outcomes(self, scores: Tensor, items: Sequence[Item]) -> list[Any]:
        """The probabilities of each example's own choices."""
        shares = torch.softmax(scores.float(), dim=-1).cpu().numpy()
        return [row[: len(item.sequences)] for row, item in zip(shares, items, strict=True)]

    def predictions(self, examples: Sequence[Any], items: Sequence[Item], outcomes: Sequence[Any]) -> list[Any]:
        """The place of the likeliest choice, and its probability."""
        return [{"choice": int(one.argmax()), "probability": round(float(one.max()), 6)} for one in outcomes]

    def blank(self, row: Row) -> str:
        """The first choice."""
        return self.task.labels[0] if self.task.labels else "0"

    def metrics(self, examples: Sequence[Question], predictions: Sequence[Any]) -> dict[str, float]:
        """accuracy."""
        right_N = np.array([example.target for example in examples])
        return {"accuracy": metrics.accuracy(np.array([one["choice"] for one in predictions]), right_N)}

    def baseline(self, training: Sequence[Question], examples: Sequence[Question]) -> dict[str, float]:
        """That of the place that is right most often in training."""
        most = Counter(example.target for example in training).most_common(1)[0][0]
        return self.metrics(examples, [{"choice": most}] * len(examples))
