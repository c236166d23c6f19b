"""Causal language modelling: each token from those before it (Radford et al. 2018, equation 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from training.config import ObjectiveConfig
from training.loader import PADDING
from training.models.transformer import Transformer
from training.objectives.cross_entropy import IGNORED, linear_cross_entropy, token_losses


class CausalObjective:
    """Next-token cross-entropy in nats."""

    def __init__(self, config: ObjectiveConfig, end_of_text: int, in_chunks: bool = True) -> None:
        self._config = config
        self._end_of_text = end_of_text
        self._in_chunks = in_chunks

    def prepare(self, windows: Tensor) -> dict[str, Tensor]:
        """Inputs and targets (B, T) int64 from windows (B, T + 1); what follows the end of a window does not count.

        With a document mask also `documents` (B, T). An end-of-text id belongs to the document that follows it, whose
        first token is predicted from it alone: as in generation, where it stands before the prompt.
        """
        padding = windows == PADDING
        inputs = windows.masked_fill(padding, self._end_of_text)[:, :-1].contiguous()
        batch = {"inputs": inputs, "targets": windows.masked_fill(padding, IGNORED)[:, 1:].contiguous()}
        if self._config.document_mask:
            batch["documents"] = (inputs == self._end_of_text).cumsum(1)
        return batch

    def loss(self, model: Transformer, batch: dict[str, Tensor]) -> Tensor:
        """Mean loss over all positions, with label smoothing and z-loss where they are set."""
        hidden_BTD = model.hidden(batch["inputs"], batch.get("documents"))
        return linear_cross_entropy(
            hidden_BTD.flatten(0, 1),
            model.head.weight,
            batch["targets"].flatten(),
            label_smoothing=self._config.label_smoothing,
            z_loss=self._config.z_loss,
            chunks=self._in_chunks,
        )

    def evaluate(self, model: Transformer, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Summed loss (B,) float64 and number of targets (B,) int64 of each window; the plain cross-entropy."""
        hidden_BTD = model.hidden(batch["inputs"], batch.get("documents"))
        targets = batch["targets"]
        losses_N = token_losses(hidden_BTD.flatten(0, 1), model.head.weight, targets.flatten())
        return losses_N.view(targets.shape).sum(1, dtype=torch.float64), (targets != IGNORED).sum(1)
