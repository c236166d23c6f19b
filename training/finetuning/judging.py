"""The examples of a task in its files, and what the network says of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from training.evaluation.batching import POSITIONS, groups
from training.finetuning.config import FinetuningConfig, TaskConfig
from training.finetuning.kinds import Item, Kind, make
from training.finetuning.network import Network
from training.finetuning.sequences import Reader
from training.finetuning.tables import Row, read_table, split_by_hash


@dataclass
class Split:
    """Examples of one file, as the model reads them."""

    examples: list[Any]
    items: list[Item]


@dataclass
class LoadedTask:
    """A task with its examples by split."""

    config: TaskConfig
    kind: Kind
    splits: dict[str, Split] = field(default_factory=dict)
    truncated: int = 0
    """Training examples that lose a part of their text."""

    @property
    def name(self) -> str:
        """The task's."""
        return self.config.name


def load_task(task: TaskConfig, reader: Reader, config: FinetuningConfig) -> LoadedTask:
    """Read a task's files; raises ValueError naming the file and the line of what is wrong."""
    rows: dict[str, list[Row]] = {split: read_table(task, split) for split in task.files()}
    if "dev" not in rows and task.dev_share:
        rows["train"], rows["dev"] = split_by_hash(rows["train"], task.dev_share)
        if not (rows["train"] and rows["dev"]):
            raise ValueError(f"tasks.{task.name}: {task.train}: too few examples to keep some for dev; name a dev file")
    if task.max_train:
        order = np.random.default_rng([config.seed, 7]).permutation(len(rows["train"]))[: task.max_train]
        rows["train"] = [rows["train"][place] for place in order]
    kind = make(task, reader, config)
    kind.learn(rows["train"])
    loaded = LoadedTask(task, kind)
    for split, mine in rows.items():
        kept = mine[: task.max_eval or None] if split != "train" else mine
        examples = kind.examples(kept)
        loaded.splits[split] = Split(examples, kind.items(examples, training=split == "train"))
    loaded.truncated = kind.truncated(loaded.splits["train"].examples)
    return loaded


@dataclass
class Judgement:
    """What the network says of examples, and what that is worth."""

    metrics: dict[str, float]
    predictions: list[Any]


def judge(network: Network, kind: Kind, split: Split, tell: Callable[[int, int], None] | None = None) -> Judgement:
    """Predict all examples of a split, in batches of similar length without gradients, and judge the predictions."""
    predictions = predict(network, kind, split, tell)
    return Judgement(kind.metrics(split.examples, predictions), predictions)


def predict(network: Network, kind: Kind, split: Split, tell: Callable[[int, int], None] | None = None) -> list[Any]:
    """For each example what the network says."""
    items, outcomes = split.items, [None] * len(split.items)
    lengths = [item.length * len(item.sequences) for item in items]
    limit = POSITIONS.get(network.compute.device.type, 2048)
    was_training = network.training
    network.eval()
    done = 0
    for group in groups(lengths, limit):
        batch = [items[place] for place in group]
        with torch.inference_mode():
            found = kind.outcomes(kind.scores(network, batch), batch)
        for place, one in zip(group, found, strict=True):
            outcomes[place] = one
        done += len(group)
        if tell is not None:
            tell(done, len(items))
    network.train(was_training)
    return kind.predictions(split.examples, items, outcomes)


def score_of(task: TaskConfig, metrics: dict[str, float]) -> float:
    """What chooses the best weights: the mean of the task's metrics, a loss with a minus."""
    return float(np.mean([-metrics[name] if name == "loss" else metrics[name] for name in task.judged_by]))


def mean_score(tasks: Sequence[LoadedTask], metrics: dict[str, dict[str, float]]) -> float:
    """The mean of the tasks' scores, of those that have dev examples."""
    return float(np.mean([score_of(task.config, metrics[task.name]) for task in tasks if task.name in metrics]))
