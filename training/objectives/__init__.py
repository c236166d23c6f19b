"""Pretraining tasks. The trainer knows none of them: it hands a batch to an objective and gets a loss back."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from training.config import ObjectiveConfig
from training.models.transformer import Transformer
from training.objectives.causal import CausalObjective

Batch = dict[str, Tensor]


class Objective(Protocol):
    """A task: how a batch is prepared, what its loss is, and what is measured in evaluation."""

    def prepare(self, windows: Tensor) -> Batch:
        """Make a batch from token windows (B, T + 1) int64; `training.loader.PADDING` fills the end of a short one."""
        ...

    def loss(self, model: Transformer, batch: Batch) -> Tensor:
        """Mean loss of the batch, a scalar with a gradient."""
        ...

    def evaluate(self, model: Transformer, batch: Batch) -> tuple[Tensor, Tensor]:
        """Summed loss and number of predictions of each sequence: two tensors (B,), float64 and int64."""
        ...


class LossModule(nn.Module):
    """Model and objective as one module, so that DDP, FSDP and torch.compile see the whole step."""

    def __init__(self, model: Transformer, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self._objective = objective

    def forward(self, batch: Batch) -> Tensor:
        """The mean loss of a batch, a scalar."""
        return self._objective.loss(self.model, batch)


def build(config: ObjectiveConfig, end_of_text: int, in_chunks: bool = True) -> Objective:
    """The objective that a config names; `in_chunks`: without the logits of all positions at once."""
    return {"causal": CausalObjective}[config.name](config, end_of_text, in_chunks)
