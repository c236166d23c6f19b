"""Causal language modelling: each token from those before it (Radford et al. 2018, equation 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from training.loader import PADDING
from training.models.gpt import GPT
from training.objectives.cross_entropy import IGNORED, linear_cross_entropy, token_losses


class CausalObjective:
    """Next-token cross-entropy in nats."""

    def __init__(self, end_of_text: int) -> None:
        self._end_of_text = end_of_text

    def prepare(self, windows: Tensor) -> dict[str, Tensor]:
        """Inputs and targets (B, T) int64 from windows (B, T + 1); what follows the end of a window does not count."""
        padding = windows == PADDING
        return {
            "inputs": windows.masked_fill(padding, self._end_of_text)[:, :-1].contiguous(),
            "targets": windows.masked_fill(padding, IGNORED)[:, 1:].contiguous(),
        }

    def loss(self, model: GPT, batch: dict[str, Tensor]) -> Tensor:
        """Mean loss over all positions."""
        hidden_BTD = model.hidden(batch["inputs"])
        return linear_cross_entropy(hidden_BTD.flatten(0, 1), model.head.weight, batch["targets"].flatten())

    def evaluate(self, model: GPT, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Summed loss (B,) float64 and number of targets (B,) int64 of each window."""
        hidden_BTD = model.hidden(batch["inputs"])
        targets = batch["targets"]
        losses_N = token_losses(hidden_BTD.flatten(0, 1), model.head.weight, targets.flatten())
        return losses_N.view(targets.shape).sum(1, dtype=torch.float64), (targets != IGNORED).sum(1)
