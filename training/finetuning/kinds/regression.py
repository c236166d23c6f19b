"""A number for a text, or for a pair of texts, by the squared error (STS-B)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.finetuning import metrics
from training.finetuning.kinds.classification import OfTexts, Texts
from training.finetuning.kinds.kind import Item
from training.finetuning.tables import Row


class Regression(OfTexts):
    """The head gives the number itself."""

    @property
    def outputs(self) -> int:
        """One."""
        return 1

    def target(self, row: Row) -> float:
        """The number; raises ValueError naming the row where it is none."""
        text = row.text(self.task.columns.label)
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise ValueError(f"{row.place}: {self.task.columns.label}: {text!r} is no number")
        return number

    def loss(self, scores: Tensor, items: Sequence[Item]) -> Tensor:
        """Squared error."""
        targets_N = torch.tensor([item.target for item in items], dtype=torch.float32, device=scores.device)
        return F.mse_loss(scores[:, 0], targets_N, reduction="sum")

    def outcomes(self, scores: Tensor, items: Sequence[Item]) -> list[Any]:
        """The numbers."""
        return [float(score) for score in scores[:, 0].float().cpu()]

    def predictions(self, examples: Sequence[Any], items: Sequence[Item], outcomes: Sequence[Any]) -> list[Any]:
        """The numbers."""
        return [{"value": value} for value in outcomes]

    def metrics(self, examples: Sequence[Texts], predictions: Sequence[Any]) -> dict[str, float]:
        """pearson, spearman, and the mean squared error."""
        predicted_N = np.array([one["value"] for one in predictions])
        right_N = np.array([example.target for example in examples])
        error = float(np.square(predicted_N - right_N).mean())
        return {**metrics.correlations(predicted_N, right_N), "squared_error": error}

    def baseline(self, training: Sequence[Texts], examples: Sequence[Texts]) -> dict[str, float]:
        """Those of the training examples' mean."""
        mean = float(np.mean([example.target for example in training]))
        return self.metrics(examples, [{"value": mean}] * len(examples))
