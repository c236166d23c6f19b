"""The trunk of a checkpoint with a head for each task.

Shape suffixes: B sequences, T tokens, D width, C outputs of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from training.devices import Compute
from training.finetuning.sequences import Batch, Encoded, Pooling, Reader, hidden_states, pooled
from training.models import Model

_DEVIATION = 0.02
"""Of a new head's weights (BERT's published code)."""


class Head(nn.Module):
    """What reads a vector: dropout and a matrix; before it, where `dense`, a layer with tanh, as RoBERTa's has it."""

    def __init__(self, width: int, outputs: int, dropout: float, dense: bool, random: torch.Generator) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width) if dense else None
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(width, outputs)
        for layer in (self.dense, self.output):
            if layer is not None:
                nn.init.normal_(layer.weight, std=_DEVIATION, generator=random)
                nn.init.zeros_(layer.bias)

    def forward(self, vectors_ND: Tensor) -> Tensor:
        """Outputs (..., C) float32 of vectors (..., D)."""
        x_ND = self.dropout(vectors_ND.float())
        if self.dense is not None:
            x_ND = self.dropout(torch.tanh(self.dense(x_ND)))
        outputs_NC: Tensor = self.output(x_ND)
        return outputs_NC


class Network(nn.Module):
    """A model and its heads, by the task's name.

    A pooler that the model was trained with stands before the heads of whole texts (BERT); other first tokens get a
    layer of their own; means and last tokens go to the matrix as they are.
    """

    def __init__(self, model: Model, reader: Reader, compute: Compute, pooling: Pooling, dropout: float = 0.1) -> None:
        super().__init__()
        self.model = model
        self.heads = nn.ModuleDict()
        self.reader, self.compute, self.pooling = reader, compute, pooling
        self._dropout = dropout
        self._pools = pooling == "first" and getattr(model, "pooler", None) is not None

    def add_head(self, name: str, outputs: int, of_tokens: bool, random: torch.Generator) -> None:
        """Give a task a head of weights drawn from `random`."""
        dense = not of_tokens and self.pooling == "first" and not self._pools
        width = self.reader.config.width
        self.heads[name] = Head(width, outputs, self._dropout, dense, random).to(self.compute.device)

    def batch(self, sequences: Sequence[Encoded]) -> Batch:
        """Sequences on the device."""
        return self.reader.batch(sequences, self.compute.device)

    def hidden(self, batch: Batch, read: int | None = None) -> Tensor:
        """The last layer (B, T, D), or that of the first `read` tokens."""
        with self.compute.autocast():
            return hidden_states(self.model, batch, read)

    def of_sequences(self, name: str, sequences: Sequence[Encoded]) -> Tensor:
        """A task's outputs (B, C) for whole sequences."""
        batch = self.batch(sequences)
        # Where only first tokens are read, the last block computes no others.
        vectors_BD = pooled(self.hidden(batch, 1 if self.pooling == "first" else None), batch, self.pooling)
        if self._pools:
            with self.compute.autocast():
                vectors_BD = self.model.pooled(vectors_BD)
        outputs_BC: Tensor = self.heads[name](vectors_BD)
        return outputs_BC

    def of_tokens(self, name: str, sequences: Sequence[Encoded]) -> Tensor:
        """A task's outputs (B, T, C) for each token."""
        outputs_BTC: Tensor = self.heads[name](self.hidden(self.batch(sequences)))
        return outputs_BTC

    def reads_words(self) -> Any:
        """What tells tokens from hidden states: (their transform, the vocabulary matrix, its bias)."""
        return self.model.readout, self.model.head.weight, self.model.head.bias


def set_dropout(model: nn.Module, share: float) -> None:
    """Set the dropout of all layers and of the attention weights."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = share
        elif isinstance(getattr(module, "dropout", None), float):
            module.dropout = share  # type: ignore[assignment]
