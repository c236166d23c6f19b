"""A fine-tuned model at work: rows in, what it says of them out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from training.checkpoints import load_model
from training.config import TrainingConfig, from_dict
from training.devices import resolve
from training.distributed import World
from training.finetuning.config import TaskConfig
from training.finetuning.judging import Judgement, Split, judge, predict
from training.finetuning.kinds import Kind, make
from training.finetuning.network import Network
from training.finetuning.saving import load_heads, task_of
from training.finetuning.sequences import Reader
from training.finetuning.tables import Row, read_table


class FineTuned:
    """The model folder of a fine-tuning, with its heads.

    Attributes: folder, tasks (Kind by name), network. Raises ValueError naming what the folder lacks.
    """

    def __init__(
        self,
        folder: str | Path,
        device: Literal["auto", "cpu", "cuda"] = "cpu",
        precision: Literal["auto", "fp32", "bf16"] = "fp32",
        threads: int = 0,
    ) -> None:
        self.folder = Path(folder)
        described = task_of(self.folder)
        compute = resolve(TrainingConfig(device=device, precision=precision, threads=threads, compile="off"), World())
        reader = Reader(self.folder, int(described["max_length"]))
        model = load_model(self.folder, compute.device)[0]
        self.network = Network(model, reader, compute, described["pooling"])
        self.tasks: dict[str, Kind] = {}
        random = torch.Generator()
        for one in described["tasks"]:
            kind = make(from_dict(TaskConfig, one["config"], "task"), reader)
            kind.restore(one)
            self.tasks[one["name"]] = kind
            if kind.has_head:
                self.network.add_head(one["name"], kind.outputs, kind.of_tokens, random)
        if len(self.network.heads):
            load_heads(self.network, self.folder)
        self.network.eval()

    def predict(self, rows: Sequence[Mapping[str, Any]], task: str | None = None) -> list[Any]:
        """What the model says of rows, in the form of the predictions files; their labels may be missing.

        `task` may be left out where there is one. Raises ValueError naming the row for a missing column.
        """
        kind = self.kind(task)
        label = kind.label_column
        placed = [Row(f"row {number}", dict(cells)) for number, cells in enumerate(rows, start=1)]
        whole = [row if label in row.cells else Row(row.place, {**row.cells, label: kind.blank(row)}) for row in placed]
        examples = kind.examples(whole)
        return predict(self.network, kind, Split(examples, kind.items(examples, training=False))) if examples else []

    def judge(self, split: str = "test", task: str | None = None) -> Judgement:
        """Judge the examples of one of the task's own files, as the fine-tuning did."""
        kind = self.kind(task)
        examples = kind.examples(read_table(kind.task, split))
        return judge(self.network, kind, Split(examples, kind.items(examples, training=False)))

    def kind(self, task: str | None = None) -> Kind:
        """One of its tasks; raises ValueError where there are several and none of them is named."""
        if task is None and len(self.tasks) == 1:
            return next(iter(self.tasks.values()))
        if task not in self.tasks:
            raise ValueError(f"task must be one of {', '.join(self.tasks)}, got {task!r}")
        return self.tasks[task]
