"""Our side of the benchmarks of objectives, and what one process of them measures on a GPU.

    python -m benchmarks.objectives_measures WHAT JSON      # WHAT: ours, trainer

The last line printed is the answer as JSON. Rates count the tokens that are not padding, special ones included.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from benchmarks.objectives_data import END_OF_TEXT, SPECIAL_TOKENS, Corpus, drawn_corpus
from benchmarks.training_measures import WINDOWS, answer, peak_memory, planned_memory
from benchmarks.training_ours import StepClock, fit, training_run
from training import objectives
from training.callbacks import Callback
from training.callbacks import Row as Metrics
from training.config import (
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainingConfig,
    TrainingRun,
    from_dict,
)
from training.loader import TrainLoader
from training.trainer import Trainer, setting_of

VOCABULARY = 30_522
"""BERT's (Devlin et al. 2019, in the published weights)."""


@dataclass(frozen=True)
class Case:
    """A model, what it learns, and the documents that it learns from; as JSON for the process that measures it."""

    model: dict[str, Any]
    """A preset with other fields; `context_length` among them."""
    objective: str
    """A preset."""
    batch_size: int
    """Rows of ours in a step; the peer's step has as many sequences as hold the same number of tokens."""
    median_document: float
    """In tokens."""
    vocabulary: int = VOCABULARY
    corpus_tokens: int = 1_000_000
    device: str = "cpu"
    precision: str = "fp32"
    compiled: bool = False
    threads: int = 0
    warmup: int = 8
    steps: int = 15
    """Steps in a window of time."""
    training: dict[str, Any] = field(default_factory=dict)
    """More fields of our TrainingConfig."""

    @property
    def length(self) -> int:
        return int(self.model["context_length"])

    @property
    def model_config(self) -> ModelConfig:
        return from_dict(ModelConfig, dict(self.model))

    @property
    def objective_config(self) -> ObjectiveConfig:
        return from_dict(ObjectiveConfig, ObjectiveConfig.expand(self.objective))

    def corpus(self) -> Corpus:
        return drawn_corpus(self.corpus_tokens, self.vocabulary, self.median_document)

    def run(self, folder: Path, steps: int) -> TrainingRun:
        """Our run of it; AdamW as transformers' Trainer has it by default."""
        folder.mkdir(parents=True, exist_ok=True)
        settings = {
            "steps": steps,
            "batch_size": self.batch_size,
            "device": self.device,
            "precision": self.precision,
            "threads": self.threads,
            "compile": "on" if self.compiled else "off",
            "log_every": steps,
            **self.training,
        }
        return training_run(
            [self.corpus().shard(folder)],
            self.vocabulary,
            folder / "run",
            self.model_config,
            end_of_text=END_OF_TEXT,
            special_tokens=SPECIAL_TOKENS,
            objective=self.objective_config,
            optimizer=OptimizerConfig("adamw", learning_rate=5e-5, beta2=0.999),
            schedule=ScheduleConfig("linear", warmup_steps=1),
            training=from_dict(TrainingConfig, settings),
        )


class Speed(NamedTuple):
    """Of a window of steps."""

    seconds: float
    """Of a step."""
    processor_seconds: float
    """Of a step, in all threads of the process: what other processes do says less about them."""
    tokens: float
    """In a step, without padding."""
    padding: float
    """Share of the positions."""

    @property
    def rate(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds


class Clocks(NamedTuple):
    """Wall time and that of the process, in seconds."""

    wall: float
    processor: float

    @classmethod
    def now(cls) -> Clocks:
        return cls(time.perf_counter(), time.process_time())


def speed_since(begin: Clocks, masks: list[Tensor]) -> Speed:
    """Of the steps since then; `masks` are positive where a position of their batches is no padding."""
    wall, processor = (now - then for now, then in zip(Clocks.now(), begin, strict=True))
    tokens, positions = sum(int((mask > 0).sum()) for mask in masks), sum(mask.numel() for mask in masks)
    steps = len(masks)
    return Speed(wall / steps, processor / steps, tokens / steps, 1 - tokens / positions)


class Rounds(Callback):
    """Some steps of ours, then as many of each peer, and again, so that the load of a machine hits all alike.

    The first `warmup` steps of a round are not timed, on any side.
    """

    name = "rounds"

    def __init__(self, peers: Mapping[str, Callable[[int, int], Speed]], steps: int, warmup: int = 1) -> None:
        self._peers, self._steps, self._warmup = peers, steps, warmup
        self._done, self._begin = 0, Clocks.now()
        self._masks: list[Tensor] = []
        self.speeds: dict[str, list[Speed]] = {name: [] for name in ("ours", *peers)}
        """Of each round."""

    def on_step_end(self, trainer: Trainer, row: Metrics) -> None:
        self._done += 1
        if self._done == self._warmup:
            self._begin = Clocks.now()
        elif self._done > self._warmup:
            self._masks.append(trainer.batch["documents"])
        if self._done == self._warmup + self._steps:
            self.speeds["ours"].append(speed_since(self._begin, self._masks))
            for name, peer in self._peers.items():
                self.speeds[name].append(peer(self._warmup, self._steps))
            self._done, self._masks = 0, []


def tokens_per_step(run: TrainingRun, batches: int = 8) -> float:
    """Tokens that are not padding in a batch of ours, a mean over the first ones."""
    form = objectives.build(run.objective, setting_of(run)).form(run.sequence_length)
    loader = TrainLoader(run.shards("train"), form, run.training.batch_size, run.training.seed)
    return float(np.mean([np.count_nonzero(loader.batch(step)["documents"]) for step in range(batches)]))


def measure_ours(request: dict[str, Any]) -> dict[str, Any]:
    """Train with the real trainer and its usual metrics for some windows of steps."""
    case = Case(**request)
    with tempfile.TemporaryDirectory() as scratch:
        run = case.run(Path(scratch), case.warmup + WINDOWS * case.steps)
        clock = StepClock(case.warmup, case.steps)
        done = fit(run, [clock])
        seconds, tokens = statistics.median(clock.seconds), tokens_per_step(run)
        return {
            "seconds_per_step": seconds,
            "tokens_per_step": tokens,
            "tokens_per_second": tokens / seconds,
            "padding": 1 - tokens / done.tokens_per_step,
            "flops_per_token": done.flops_per_token,
            "peak_flops": done.compute.peak_flops,
            "loss": clock.loss,
            "memory": peak_memory(case.device),
            "planned": planned_memory(run),
        }


def measure_trainer(request: dict[str, Any]) -> dict[str, Any]:
    """transformers' Trainer on examples of the same corpus; `tokens_per_step` is what a step should hold."""
    from benchmarks.objectives_peers import Peer

    case = Case(**{key: value for key, value in request.items() if key != "tokens_per_step"})
    peer = Peer(case, request["tokens_per_step"])
    speeds = peer.train(case.warmup, case.steps, WINDOWS)
    found = sorted(speeds, key=lambda speed: speed.rate)[len(speeds) // 2]
    return {
        "seconds_per_step": found.seconds,
        "tokens_per_second": found.rate,
        "padding": statistics.mean(speed.padding for speed in speeds),
        "sequences": peer.batch_size,
        "memory": peak_memory(case.device),
    }


MEASURES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {"ours": measure_ours, "trainer": measure_trainer}


if __name__ == "__main__":
    answer(MEASURES, sys.argv[1:])
