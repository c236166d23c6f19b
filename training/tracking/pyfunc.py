"""Loads a logged checkpoint for `mlflow.pyfunc.load_model`; MLflow calls `_load_pyfunc`."""

from __future__ import annotations

import dataclasses
from typing import Any

from training.config.generation import GenerationConfig
from training.finetuning.predictor import FineTuned
from training.generation import Generator
from training.tracking.packaging import HEAD, checkpoint_folder


class TextModel:
    """A model whose `predict` continues prompts."""

    def __init__(self, generator: Generator) -> None:
        self.generator = generator

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> list[str]:
        """Continue each prompt: a string, a list of them, an array or a table of one column; returns the continuations.

        params: fields of `GenerationConfig`. Raises ValueError for an unknown one or an input that is no text.
        """
        fields = {entry.name for entry in dataclasses.fields(GenerationConfig)}
        unknown = sorted(set(params or {}) - fields)
        if unknown:
            raise ValueError(f"params: {', '.join(unknown)} unknown; allowed are {', '.join(sorted(fields))}")
        settings = GenerationConfig(**(params or {}))
        return [sample.continuation for sample in self.generator.sample(_prompts(model_input), settings)]


class TaskModel:
    """A fine-tuned model whose `predict` tells what it was tuned for."""

    def __init__(self, model: FineTuned) -> None:
        self.model = model

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> list[Any]:
        """What the model says of each row, in the form of the fine-tuning's predictions files.

        Rows are a table or a list of objects with the columns of the task, or texts for one that reads a single text.
        params: `task`, where the model has several. Raises ValueError for another task, and for a missing column.
        """
        task = (params or {}).get("task") or None
        return self.model.predict(self._rows(model_input, task), task)

    def _rows(self, model_input: Any, task: str | None) -> list[dict[str, Any]]:
        if hasattr(model_input, "to_dict"):
            return [dict(row) for row in model_input.to_dict("records")]
        if isinstance(model_input, dict):
            return [model_input]
        if all(isinstance(row, dict) for row in model_input):
            return list(model_input)
        column = self.model.kind(task).task.columns.text
        return [{column: text} for text in _prompts(model_input)]


def _prompts(model_input: Any) -> list[str]:
    if isinstance(model_input, str):
        return [model_input]
    if hasattr(model_input, "to_numpy"):
        model_input = model_input.to_numpy()
    if hasattr(model_input, "ravel"):
        model_input = model_input.ravel().tolist()
    prompts = list(model_input)
    wrong = next((prompt for prompt in prompts if not isinstance(prompt, str)), None)
    if wrong is not None:
        raise ValueError(f"a prompt must be a string, got {wrong!r}")
    return prompts


def _load_pyfunc(path: str) -> TextModel | TaskModel:
    folder = checkpoint_folder(path)
    return TaskModel(FineTuned(folder)) if (folder / HEAD).is_file() else TextModel(Generator.load(folder))
