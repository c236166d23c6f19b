"""What a judging by task files is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from training.config.reading import STRICT, at_least
from training.suites.library import resolve


@dataclass(frozen=True)
class MemorizationConfig:
    """How much of its training text a model writes on, word for word (Carlini et al. 2023, section 3)."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    samples: int = 1000
    """Stretches of the train shards, and as many of the validation shards for comparison; 0 leaves the probe out."""
    prefix_tokens: tuple[int, ...] = (32, 64, 128)
    """How many tokens the model is given, each of which is a measurement of its own."""
    continuation_tokens: int = 50
    """How many tokens it must go on with."""

    def __post_init__(self) -> None:
        at_least("samples", self.samples, 0)
        at_least("continuation_tokens", self.continuation_tokens, 1)
        for tokens in self.prefix_tokens:
            at_least("prefix_tokens", tokens, 1)


@dataclass(frozen=True)
class SuiteConfig:
    """Tasks by name, and how they are put to a model."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT
    EXECUTION: ClassVar[tuple[str, ...]] = ("cache", "batch_positions")

    tasks: tuple[str, ...] = ("english",)
    """Names of tasks or of groups of them (training/suites/tasks and groups), or YAML files of either kind."""
    root: str = "data"
    """Folder that the files of tasks are relative to."""
    checkpoints: tuple[str, ...] = ()
    """Further checkpoint folders, judged by the same tasks for a table across them; they need a tokenizer each."""
    shots: int | None = None
    """Examples in each prompt, in place of what the tasks say."""
    limit: int = 0
    """Most items of each task, from the beginning of its file; 0: all."""
    seed: int = 1
    """Of the choice of examples, the resamples, and sampled text."""
    bootstrap: int = 1000
    """Resamples behind the standard errors of means (of corpus metrics, BLEU and chrF, at most 100); 0: none."""
    calibration_bins: int = 10
    """Bins of the calibration error (Guo et al. 2017, equation 3)."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the trunk; the head computes in float32."""
    memorization: MemorizationConfig | None = None
    cache: str = ""
    """SQLite file of the answers so far; by default requests.sqlite in the output folder."""
    batch_positions: int = 0
    """Most tokens of one forward pass; 0: by the device."""

    def __post_init__(self) -> None:
        if not self.tasks and self.memorization is None:
            raise ValueError("tasks: names none; give a task or a group, such as hellaswag or core, or memorization")
        for name in ("limit", "seed", "bootstrap", "batch_positions"):
            at_least(name, getattr(self, name), 0)
        at_least("calibration_bins", self.calibration_bins, 1)
        if self.shots is not None:
            at_least("shots", self.shots, 0)

    def files(self) -> list[str]:
        """All input files: the data of the tasks, YAML files of the user's own, weights of further checkpoints.

        Raises ValueError for a task that is not there.
        """
        tasks, _, read = resolve(self.tasks)
        found = dict.fromkeys(read)
        for task in tasks:
            for name in (task.file, task.shots_file):
                if name:
                    found[str(Path(self.root) / name.partition("#")[0])] = None
        for folder in self.checkpoints:
            for name in ("config.json", "model.safetensors", "tokenizer.json"):
                found[str(Path(folder) / name)] = None
        return list(found)
