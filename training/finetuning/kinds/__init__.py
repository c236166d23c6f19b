"""The kinds of tasks, each a file."""

from __future__ import annotations

from training.finetuning.config import FinetuningConfig, TaskConfig
from training.finetuning.kinds.answers import QuestionAnswering
from training.finetuning.kinds.choice import MultipleChoice
from training.finetuning.kinds.classification import Classification
from training.finetuning.kinds.instruction import Instruction
from training.finetuning.kinds.kind import IGNORED, Item, Kind
from training.finetuning.kinds.regression import Regression
from training.finetuning.kinds.tokens import TokenClassification
from training.finetuning.sequences import Reader

_CLASSES: dict[str, type[Kind]] = {
    "classification": Classification,
    "pair_classification": Classification,
    "regression": Regression,
    "token_classification": TokenClassification,
    "multiple_choice": MultipleChoice,
    "question_answering": QuestionAnswering,
}

__all__ = ["IGNORED", "Item", "Kind", "make"]


def make(task: TaskConfig, reader: Reader, config: FinetuningConfig | None = None) -> Kind:
    """The kind of a task, before it has seen rows."""
    smoothing = 0.0 if config is None else config.label_smoothing
    if task.kind == "instruction":
        return Instruction(task, reader, smoothing, config is None or config.pack)
    return _CLASSES[task.kind](task, reader, smoothing)
