"""Validation loss, perplexity and bits per byte over a fixed choice of windows: overall, by source, by language."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from training.callbacks import Callback, Row, diverged
from training.config import Shard
from training.loader import ValidationLoader
from training.trainer import Trainer


class Evaluation(Callback):
    """Evaluates every `evaluate_every` steps, with each checkpoint, and at the end."""

    name = "evaluation"

    def __init__(self, loader: ValidationLoader) -> None:
        self._loader = loader

    def on_step_end(self, trainer: Trainer, row: Row) -> None:
        """Add the metrics to the row when they are due."""
        config = trainer.run.training
        if len(self._loader) and (trainer.due(config.evaluate_every) or trainer.due(config.checkpoint_every)):
            metrics = summarize(self._loader.shards, *measure(trainer, self._loader))
            if not math.isfinite(metrics["validation/loss"]):
                raise FloatingPointError(diverged("validation loss", metrics["validation/loss"], trainer.step))
            row.update(metrics)
            trainer.report("evaluation", step=trainer.step, metrics={k: row[k] for k in row if k in OVERALL})


OVERALL = ("validation/loss", "validation/perplexity", "validation/bits_per_byte")


def measure(trainer: Trainer, loader: ValidationLoader) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Summed loss and number of predictions of each validation shard, over all processes."""
    totals = torch.zeros(2, len(loader.shards), dtype=torch.float64)
    model, device, world = trainer.model, trainer.compute.device, trainer.world
    with trainer.inference():
        for part in loader.batches(trainer.device_batch_size, world.rank, world.size):
            batch = trainer.objective.prepare(torch.from_numpy(part.windows).to(device))
            with trainer.compute.autocast():
                losses, counts = trainer.objective.evaluate(model, batch)
            trainer.beat()
            shards = torch.from_numpy(part.shards)
            totals[0].index_add_(0, shards, losses.double().cpu())
            totals[1].index_add_(0, shards, counts.double().cpu())
    totals = world.sum(totals.to(device)).cpu()
    return totals[0].numpy(), totals[1].numpy()


def summarize(shards: list[Shard], losses: NDArray[np.float64], counts: NDArray[np.float64]) -> Row:
    """Metrics by name. The mean loss of a shard stands for all of its tokens, so shards weigh by their size.

    Bits per byte: the loss in bits of all tokens (end-of-text ids included) over the UTF-8 bytes of their text.
    """
    means = losses / np.maximum(counts, 1)
    tokens = np.array([shard.tokens for shard in shards], dtype=np.float64)
    text_bytes = np.array([shard.text_bytes for shard in shards], dtype=np.float64)

    def metrics(chosen: NDArray[np.bool_], suffix: str) -> Row:
        nats = float((means * tokens)[chosen].sum())
        loss = nats / float(tokens[chosen].sum())
        row = {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}
        if text_bytes[chosen].all():
            row["bits_per_byte"] = nats / math.log(2) / float(text_bytes[chosen].sum())
        return {f"validation/{name}{suffix}": value for name, value in row.items()}

    row = metrics(np.ones(len(shards), dtype=bool), "")
    groups: dict[str, Callable[[Shard], str]] = {"source": lambda s: s.source, "language": lambda s: s.language}
    for group, key in groups.items():
        labels = np.array([key(shard) for shard in shards])
        for label in sorted(set(labels.tolist()) - {""}):
            row |= metrics(labels == label, f"/{group}/{label}")
    return row
