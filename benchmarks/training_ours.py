"""Our side of the benchmarks of training: the real trainer, with a clock among its callbacks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from training import devices
from training.callbacks import Callback
from training.callbacks import Row as Metrics
from training.callbacks.guard import Guard
from training.callbacks.training_metrics import TrainingMetrics
from training.config import (
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
    Shard,
    TrainingRun,
    from_dict,
    to_dict,
)
from training.distributed import World
from training.events import Reporter
from training.trainer import Trainer

ROOT = Path(__file__).parents[1]

NANOGPT_TRUNK: dict[str, Any] = {
    "positions": "learned",
    "norm": "layernorm",
    "norm_epsilon": 1e-5,
    "mlp": "gelu",
    "qk_norm": "none",
    "bias": "none",
    "tied_embeddings": True,
    "initialization": "gpt2",
}
"""nanoGPT's model with its default of no biases, in our terms."""
NANOGPT_OPTIMIZER = OptimizerConfig("adamw", learning_rate=1e-3, beta1=0.9, beta2=0.99, weight_decay=0.1)
NANOGPT_SCHEDULE = ScheduleConfig("cosine", warmup_steps=100, floor=0.1)
"""Those of its config/train_shakespeare_char.py."""


@dataclass(frozen=True)
class Shape:
    """The size of a model and of its batch."""

    layers: int
    heads: int
    width: int
    context_length: int
    batch_size: int
    dropout: float = 0.0

    def nanogpt_model(self) -> ModelConfig:
        return ModelConfig(**self._size(), **NANOGPT_TRUNK, dropout=self.dropout, attention_dropout=self.dropout)

    def default_model(self) -> ModelConfig:
        return ModelConfig(**self._size(), dropout=self.dropout)

    def nanogpt_arguments(self) -> list[str]:
        """The same size for its train.py."""
        values = {
            "n_layer": self.layers,
            "n_head": self.heads,
            "n_embd": self.width,
            "block_size": self.context_length,
            "batch_size": self.batch_size,
            "dropout": self.dropout,
        }
        return [f"--{name}={value}" for name, value in values.items()]

    def _size(self) -> dict[str, Any]:
        names = ("layers", "heads", "width", "context_length")
        return {name: getattr(self, name) for name in names}


def training_run(
    shards: list[Shard], vocabulary: int, folder: Path, model: Mapping[str, Any] | ModelConfig, **sections: Any
) -> TrainingRun:
    """A run whose last id ends a text, unless `end_of_text` says which; a model may be a preset with other fields."""
    if not isinstance(model, ModelConfig):
        model = from_dict(ModelConfig, dict(model))
    sections = {"end_of_text": vocabulary - 1, **sections}
    return TrainingRun(shards, vocabulary, output_dir=str(folder), model=model, **sections)


def whole_validation(run: TrainingRun) -> TrainingRun:
    """The run with evaluations over all of the validation split."""
    tokens = sum(shard.tokens for shard in run.shards("validation"))
    windows = -(-tokens // run.sequence_length)
    batches = -(-windows // run.training.batch_size)
    return replace(run, training=replace(run.training, evaluation_batches=batches))


def fit(run: TrainingRun, callbacks: Sequence[Callback]) -> Trainer:
    """Train in this process with the metrics and the guard that every run has, and more callbacks; writes no file."""
    world, metrics = World(), TrainingMetrics()
    usual = [metrics, Guard(run.training.guard, metrics)]
    trainer = Trainer(run, world, devices.resolve(run.training, world), Reporter(enabled=False), [*usual, *callbacks])
    trainer.fit()
    return trainer


class StepClock(Callback):
    """Seconds of a step over windows of steps, after a warm-up; the device is waited for at the ends of a window."""

    name = "clock"

    def __init__(self, warmup: int, steps: int) -> None:
        self._warmup, self._steps = warmup, steps
        self._begin = 0.0
        self.seconds: list[float] = []
        self.loss = float("nan")
        """As last reported by the metrics."""

    def on_step_end(self, trainer: Trainer, row: Metrics) -> None:
        self.loss = row.get("train/loss", self.loss)
        done = trainer.step - self._warmup
        if done >= 0 and done % self._steps == 0:
            trainer.compute.synchronize()
            now = time.perf_counter()
            if done:
                self.seconds.append((now - self._begin) / self._steps)
            self._begin = now


class Alternation(Callback):
    """After every few steps of ours as many of each peer, all timed, so that the load of a machine hits all alike."""

    name = "alternation"

    def __init__(self, peers: Mapping[str, Callable[[], None]], steps: int, skipped: int = 2) -> None:
        self._peers, self._steps, self._skipped = peers, steps, skipped
        self._begin = 0.0
        self.seconds: dict[str, list[float]] = {name: [] for name in ("ours", *peers)}
        """Of one step, for each window."""

    def on_start(self, trainer: Trainer) -> None:
        self._begin = time.perf_counter()

    def on_step_end(self, trainer: Trainer, row: Metrics) -> None:
        if trainer.step % self._steps:
            return
        self._note(trainer, "ours", self._begin)
        for name, step in self._peers.items():
            begin = time.perf_counter()
            for _ in range(self._steps):
                step()
            self._note(trainer, name, begin)
        self._begin = time.perf_counter()

    def _note(self, trainer: Trainer, name: str, begin: float) -> None:
        if trainer.step > self._skipped * self._steps:
            self.seconds[name].append((time.perf_counter() - begin) / self._steps)


@dataclass
class Trained:
    """A run by `python -m training train`: its result.json, its validation losses by step, and its wall time."""

    result: dict[str, Any]
    validation: dict[int, float] = field(default_factory=dict)
    seconds: float = 0.0


def train_as_a_user(run: TrainingRun, seconds: float | None = None) -> Trained:
    """Train in a process of its own; raises RuntimeError with its message where that fails, or takes too long."""
    folder = Path(run.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "run.json"
    config.write_text(json.dumps(to_dict(run)), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = time.perf_counter()
    command = [sys.executable, "-m", "training", "train", str(config)]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"the run was not done after {seconds:.0f} s") from None
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    losses = {line["step"]: line["metrics"].get("validation/loss") for line in lines}
    result = json.loads((folder / "result.json").read_text())
    validation = {step: loss for step, loss in losses.items() if loss is not None}
    return Trained(result, validation, time.perf_counter() - started)
