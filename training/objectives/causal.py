"""Causal language modelling: each token from those before it (Radford et al. 2018, equation 1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from training.objectives.cross_entropy import IGNORED, linear_cross_entropy, token_losses
from training.objectives.middle import fill_in_the_middle
from training.objectives.objective import Batch, Measures, Objective
from training.rows import PADDING, Form, Windows


class CausalObjective(Objective):
    """Next-token cross-entropy in nats; with fill-in-the-middle in training (`middle.py`), never in evaluation."""

    likelihood = True

    def form(self, length: int) -> Form:
        """Windows of running text."""
        return Windows(length)

    def prepare(self, rows: Batch, training: bool = True) -> Batch:
        """`inputs` and `targets` (B, T) int64 from rows (B, T + 1); what follows the end of a text does not count.

        With a document mask also `documents` (B, T). An end-of-text id belongs to the document that follows it, whose
        first token is predicted from it alone: as in generation, where it stands before the prompt.
        """
        if training and self.config.fill_in_the_middle:
            rows = {**rows, "tokens": fill_in_the_middle(rows, self.config.fill_in_the_middle, self.setting)}
        return self._batch(rows["tokens"])

    def loss(self, model: Any, batch: Batch) -> Tensor:
        """Mean loss over all positions, with label smoothing and z-loss where they are set."""
        return linear_cross_entropy(
            self._read(model, batch),
            model.head.weight,
            batch["targets"].flatten(),
            bias_V=model.head.bias,
            label_smoothing=self.config.label_smoothing,
            z_loss=self.config.z_loss,
            chunks=self.setting.in_chunks,
        )

    def evaluate(self, model: Any, batch: Batch) -> Measures:
        """`loss`: the plain cross-entropy."""
        targets_BT = batch["targets"]
        losses_N = token_losses(self._read(model, batch), model.head.weight, targets_BT.flatten(), model.head.bias)
        sums_B = losses_N.view(targets_BT.shape).sum(1, dtype=torch.float64)
        return {"loss": (sums_B, (targets_BT != IGNORED).sum(1))}

    def _batch(self, tokens: Tensor) -> Batch:
        padding = tokens == PADDING
        inputs = tokens.masked_fill(padding, self.setting.end_of_text)[:, :-1].contiguous()
        batch = {"inputs": inputs, "targets": tokens.masked_fill(padding, IGNORED)[:, 1:].contiguous()}
        if self.config.document_mask:
            batch["documents"] = (inputs == self.setting.end_of_text).cumsum(1)
        return batch

    def _read(self, model: Any, batch: Batch) -> Tensor:
        """What the head multiplies, (B T, E)."""
        causal = None if model.config.attention == "causal" else True
        hidden_BTD = model.hidden(batch["inputs"], batch.get("documents"), prefix_BT=batch.get("prefix"), causal=causal)
        read_ND: Tensor = model.readout(hidden_BTD.flatten(0, 1))
        return read_ND
