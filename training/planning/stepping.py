"""One training step as the trainer takes it, on a batch of zeros: what a plan plays through, or measures."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from training import objectives, optimizers
from training.averaging import WeightAverage
from training.config import ModelConfig, ObjectiveConfig, OptimizerConfig, SpecialTokens
from training.models import build as build_model
from training.models.float8 import use_float8
from training.rows import example_rows

Phase = Callable[[str], contextlib.AbstractContextManager[Any]]
"""Opens a part of a step by its name: forward, backward, update."""


@dataclass(frozen=True)
class StepSettings:
    """All that decides what memory a step takes in one process."""

    model: ModelConfig
    objective: ObjectiveConfig
    optimizer: OptimizerConfig
    vocabulary_size: int
    sequence_length: int
    device_batch_size: int
    """Sequences in one forward pass."""
    micro_batches: int
    """Forward passes in one step."""
    kind: Literal["cpu", "cuda"]
    precision: Literal["fp32", "bf16", "fp8"]
    compiled: bool
    chunks: bool
    """Whether the loss takes the logits a chunk of positions at a time."""
    recompute: Literal["none", "products", "blocks"] = "none"
    recompute_every: int = 1
    ema: bool = False
    tokenizer_path: str | None = None
    """For objectives that read text."""
    sparse: bool = False
    """Whether the gradient of the bigram embedding holds only the rows that a batch touched."""
    bf16_parameters: bool = False
    """Whether the forward pass sees parameters in bfloat16, as FSDP2 gathers them on CUDA."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the matrix products."""
        return torch.float32 if self.precision == "fp32" else torch.bfloat16


@contextlib.contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class Step:
    """A model with its optimiser on a device, and `take`, which updates it once."""

    def __init__(self, settings: StepSettings, device: torch.device) -> None:
        self.settings, self.device = settings, device
        with device, _default_dtype(torch.bfloat16 if settings.bf16_parameters else torch.float32):
            self.model = build_model(settings.model, settings.vocabulary_size + settings.objective.extra_tokens)
        self.model.set_recompute(settings.recompute, settings.recompute_every)
        if self.model.bigrams is not None:
            self.model.bigrams.sparse = settings.sparse
        if settings.precision == "fp8":
            use_float8(self.model)
        special = SpecialTokens(*range(4))
        known = objectives.Setting(settings.vocabulary_size, 0, special, 1, settings.chunks, settings.tokenizer_path)
        self.objective = objectives.build(settings.objective, known)
        self.optimizer = optimizers.build(settings.optimizer, self.model, settings.dtype)
        self.average = WeightAverage(self.model, 0.999) if settings.ema else None
        self.loss: Callable[[objectives.Batch], Tensor] = objectives.LossModule(self.model, self.objective)

    def rows(self) -> objectives.Batch:
        """Rows of one step, as the loader makes them, all zero."""
        settings = self.settings
        sequences = settings.device_batch_size * settings.micro_batches
        shapes = example_rows(self.objective.form(settings.sequence_length), sequences)
        return {
            name: torch.zeros(array.shape, dtype=torch.from_numpy(array[:0]).dtype, device=self.device)
            for name, array in shapes.items()
        }

    def take(self, rows: objectives.Batch, phase: Phase) -> None:
        """Forward and backward of each micro-batch, clip, update."""
        settings = self.settings
        batch = self.objective.prepare(rows)
        for first in range(0, settings.device_batch_size * settings.micro_batches, settings.device_batch_size):
            part = {name: tensor[first : first + settings.device_batch_size] for name, tensor in batch.items()}
            autocast = torch.autocast(self.device.type, settings.dtype, enabled=settings.precision != "fp32")
            with phase("forward"), autocast:
                loss = self.loss(part)
            with phase("backward"):
                (loss / settings.micro_batches).backward()  # type: ignore[no-untyped-call]
            del loss
        with phase("update"):
            skip = ~torch.isfinite(self.optimizer.clip(1.0))
            self.optimizer.step(1.0, skip=skip)
            if self.average is not None:
                self.average.update(skip=skip)
            self.optimizer.zero_grad()
