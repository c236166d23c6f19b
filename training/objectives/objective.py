"""What the trainer asks of a pretraining task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from training.config import ObjectiveConfig, SpecialTokens
from training.rows import Form

Batch = dict[str, Tensor]
"""Tensors of which each has the sequences of the batch as its first dimension: a micro-batch is a slice of all."""
Measures = dict[str, tuple[Tensor, Tensor]]
"""Sum (B,) float64 and count (B,) int64 of each metric by sequence; the ratio of the sums is the metric."""


@dataclass(frozen=True)
class Setting:
    """What objectives know of the run beside their own configuration."""

    vocabulary_size: int
    """Ids of the tokenizer; those of the objectives themselves lie behind."""
    end_of_text: int
    special_tokens: SpecialTokens = field(default_factory=SpecialTokens)
    seed: int = 1
    in_chunks: bool = True
    """Whether a loss holds the logits of a chunk of positions at a time, and not of all."""
    tokenizer_path: str | None = None
    """tokenizer.json, for objectives that read text."""

    def special(self, name: str) -> int:
        """The id of a special token; raises ValueError where the tokenizer has none."""
        found: int | None = getattr(self.special_tokens, name)
        if found is None:
            raise ValueError(f"special_tokens.{name}: this objective needs it, but the tokenizer has no such token")
        return found


class Objective(ABC):
    """A task: how batches are made, what their loss is, and what is measured in evaluation.

    All randomness but dropout comes from `training.objectives.noise`. Raises ValueError where the tokenizer lacks a
    special token.
    """

    likelihood = False
    """Whether the loss is nats for each token of the text from left to right, and so makes a perplexity."""

    def __init__(self, config: ObjectiveConfig, setting: Setting) -> None:
        self.config = config
        self.setting = setting

    @abstractmethod
    def form(self, length: int) -> Form:
        """How rows of `length` tokens are made from the corpus."""

    @abstractmethod
    def prepare(self, rows: Batch, training: bool = True) -> Batch:
        """Make a batch from rows on the device, without waiting for it; `training` is False in evaluation."""

    @abstractmethod
    def loss(self, model: Any, batch: Batch) -> Tensor:
        """Mean loss of the batch, a scalar with a gradient."""

    @abstractmethod
    def evaluate(self, model: Any, batch: Batch) -> Measures:
        """What is measured on held-out rows; the best checkpoint is the one of the lowest `loss`."""

    def flops_per_token(self, model: Any, length: int) -> int:
        """FLOPs of forward and backward for one token of rows of this length."""
        flops: int = model.flops_per_token(length)
        return flops

    def state_tensors(self) -> dict[str, Tensor]:
        """What a resumed run needs beside the step; kept in checkpoints."""
        return {}

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take up a copy of what `state_tensors` returned."""
        assert not tensors

    def after_step(self, model: Any) -> None:  # noqa: B027
        """After each update of the weights; most objectives have nothing to do then."""


def share(counted: Tensor, of_all: bool = True) -> Tensor:
    """How many of a whole batch's targets are `counted` (B, ...) bool, by row on average: (B,) float32.

    Micro-batches divide the sums of their losses by the sum of it, so that their mean is that of the batch. `of_all`:
    on average over the rows of all processes, so that the mean over them is, too; all call it then.
    """
    count = counted.sum().float()
    if of_all and dist.is_available() and dist.is_initialized():
        dist.all_reduce(count)
        count = count / dist.get_world_size()
    return (count / len(counted)).expand(len(counted)).contiguous()


def total(share_B: Tensor) -> Tensor:
    """What the sum of a micro-batch's losses is divided by; a batch without any target has a loss of 0."""
    return share_B.sum().clamp(min=torch.finfo(share_B.dtype).tiny)
