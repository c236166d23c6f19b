"""Loads a logged checkpoint for `mlflow.pyfunc.load_model`; MLflow calls `_load_pyfunc`."""

from __future__ import annotations

import dataclasses
from typing import Any

from training.generation import Generator
from training.sampling import SamplingConfig
from training.tracking.packaging import checkpoint_folder


class TextModel:
    """A model whose `predict` continues prompts."""

    def __init__(self, generator: Generator) -> None:
        self.generator = generator

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> list[str]:
        """Continue each prompt: a string, a list of them, an array or a table of one column; returns the continuations.

        params: fields of `SamplingConfig`. Raises ValueError for an unknown one or an input that is no text.
        """
        fields = {entry.name for entry in dataclasses.fields(SamplingConfig)}
        unknown = sorted(set(params or {}) - fields)
        if unknown:
            raise ValueError(f"params: {', '.join(unknown)} unknown; allowed are {', '.join(sorted(fields))}")
        settings = SamplingConfig(**(params or {}))
        return [sample.continuation for sample in self.generator.sample(_prompts(model_input), settings)]


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


def _load_pyfunc(path: str) -> TextModel:
    return TextModel(Generator.load(checkpoint_folder(path)))
