"""What the objective measures on a fixed choice of held-out rows: overall, by source, by language."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.callbacks import Callback, Row, diverged
from training.config import Shard
from training.loader import ValidationLoader, as_tensors, on_device
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
            likelihood = trainer.objective.likelihood
            metrics = summarize(self._loader.shards, measure(trainer, self._loader), likelihood)
            if "validation/loss" not in metrics:
                trainer.report("warning", message="the held-out rows hold nothing that the objective predicts")
                return
            if not math.isfinite(metrics["validation/loss"]):
                raise FloatingPointError(diverged("validation loss", metrics["validation/loss"], trainer.step))
            row.update(metrics)
            overall = {name: value for name, value in metrics.items() if is_overall(name)}
            trainer.report("evaluation", step=trainer.step, metrics=overall)


class Measured(NamedTuple):
    """Sums and counts of a metric for each validation shard, float64."""

    sums: NDArray[np.float64]
    counts: NDArray[np.float64]


def is_overall(name: str) -> bool:
    """Whether a metric is that of all shards."""
    return name.startswith("validation/") and "/source/" not in name and "/language/" not in name


def measure(trainer: Trainer, loader: ValidationLoader) -> dict[str, Measured]:
    """All that the objective measures, for each validation shard, over all processes; and `rows`, their number."""
    totals: dict[str, Tensor] = {}
    model, device, world = trainer.model, trainer.compute.device, trainer.world
    with trainer.inference():
        for part in loader.batches(trainer.device_batch_size, world.rank, world.size):
            rows = on_device(as_tensors(part.rows), device)
            batch = trainer.objective.prepare(rows, training=False)
            with trainer.compute.autocast():
                measures = trainer.objective.evaluate(model, batch)
            trainer.beat()
            shards = torch.from_numpy(part.shards)
            for name, (sums, counts) in measures.items():
                total = totals.setdefault(name, torch.zeros(2, len(loader.shards), dtype=torch.float64))
                total[0].index_add_(0, shards, sums.double().cpu())
                total[1].index_add_(0, shards, counts.double().cpu())
    names = sorted(totals)
    summed = world.sum(torch.stack([totals[name] for name in names]).to(device)).cpu().numpy()
    return {name: Measured(sums, counts) for name, (sums, counts) in zip(names, summed, strict=True)}


def summarize(shards: list[Shard], measured: Mapping[str, Measured], likelihood: bool = True) -> Row:
    """Metrics by name. The mean of a shard stands for all of it, so shards weigh by their tokens.

    With a likelihood also the perplexity, and bits per byte: the loss in bits of all tokens (end-of-text ids included)
    over the UTF-8 bytes of their text. Where there are precision and recall, their harmonic mean, F1.
    """
    tokens = np.array([shard.tokens for shard in shards], dtype=np.float64)
    text_bytes = np.array([shard.text_bytes for shard in shards], dtype=np.float64)
    # What one counted prediction stands for: the loss is counted in all of a shard's rows.
    weights = tokens / np.maximum(measured["loss"].counts, 1)

    def metrics(chosen: NDArray[np.bool_], suffix: str) -> Row:
        found: Row = {}
        for name, (sums, counts) in measured.items():
            total = float((weights * counts)[chosen].sum())
            if total:
                found[name] = float((weights * sums)[chosen].sum()) / total
        if likelihood and "loss" in found:
            found["perplexity"] = math.exp(min(found["loss"], 700.0))
            if text_bytes[chosen].all():
                nats = found["loss"] * float(tokens[chosen].sum())
                found["bits_per_byte"] = nats / math.log(2) / float(text_bytes[chosen].sum())
        for name in [name for name in found if name.endswith("_precision")]:
            precision, recall = found[name], found.get(name.replace("_precision", "_recall"), 0.0)
            both = precision + recall
            found[name.replace("_precision", "_f1")] = 2 * precision * recall / both if both else 0.0
        return {f"validation/{name}{suffix}": value for name, value in found.items()}

    row = metrics(np.ones(len(shards), dtype=bool), "")
    groups: dict[str, Callable[[Shard], str]] = {"source": lambda s: s.source, "language": lambda s: s.language}
    for group, key in groups.items():
        labels = np.array([key(shard) for shard in shards])
        for label in sorted(set(labels.tolist()) - {""}):
            row |= metrics(labels == label, f"/{group}/{label}")
    return row
