"""All tasks put to one checkpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.checkpoints.files import file_digest
from training.config import Shard
from training.devices import Compute
from training.evaluation.judged import Judged
from training.suites.cache import Cache
from training.suites.config import SuiteConfig
from training.suites.items import Item
from training.suites.likelihood import Answer, Likelihood, Told, encode
from training.suites.measures import Measured, Resampling, measure_choices, measure_continuations
from training.suites.memorization import Memorized, measure_memorization
from training.suites.task import LIKELIHOOD, Task
from training.suites.texts import measure_perplexity
from training.suites.writing import measure_texts, write_answers
from training.weights import weights_sha256

Tell = Callable[[str, int, int], None]
"""Is told the part that is being done, and how much of it is."""
_FILES = ("model.safetensors", "config.json", "tokenizer.json", "adapter.safetensors", "head.safetensors")


@dataclass
class Verdict:
    """What one checkpoint reached."""

    checkpoint: dict[str, Any]
    """name, sha256 of the weights, step, trained_tokens, parameters, objective, score, precision."""
    tasks: dict[str, Measured] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    """Tasks that this kind of model cannot do, and why."""
    cut: dict[str, int] = field(default_factory=dict)
    """By task how many contexts lost their beginning."""
    memorized: list[Memorized] = field(default_factory=list)


class Judge:
    """One checkpoint, ready to be asked. Raises ValueError naming what it lacks."""

    def __init__(self, folder: str | Path, config: SuiteConfig, compute: Compute, cache: Path) -> None:
        self._config = config
        self._judged = Judged(folder, compute, config.seed)
        self._cache = Cache(cache, model_digest(Path(folder)), compute.precision)
        self._likelihood = Likelihood(self._judged, self._cache, config.batch_positions)
        self._how = Resampling(config.bootstrap, config.seed, config.calibration_bins)
        self.verdict = Verdict(self._checkpoint())

    def ask(self, tasks: Mapping[str, tuple[Task, Sequence[Item]]], shards: Sequence[Shard], tell: Tell) -> Verdict:
        """Put all tasks to the model, then the probe for memorised text."""
        for name, (task, items) in tasks.items():
            if task.form not in LIKELIHOOD and not self._likelihood.reads_forward:
                self.verdict.skipped[name] = (
                    f"a model trained on the objective {self._judged.name} does not read from left to right, which a "
                    f"task of the form {task.form} needs"
                )
                continue
            self._likelihood.cut = 0
            self.verdict.tasks[name] = self._measured(task, items, lambda done, of, name=name: tell(name, done, of))  # type: ignore[misc]
            if self._likelihood.cut:
                self.verdict.cut[name] = self._likelihood.cut
        memorization = self._config.memorization
        if memorization is not None and memorization.samples:
            self.verdict.memorized = measure_memorization(
                memorization,
                shards,
                self._judged,
                self._likelihood,
                self._config.seed,
                lambda done, of: tell("memorization", done, of),
            )
        return self.verdict

    def close(self) -> None:
        """Close the cache."""
        self._cache.close()

    def _measured(self, task: Task, items: Sequence[Item], tell: Told) -> Measured:
        if task.form == "generation":
            written = write_answers(task, items, self._judged, self._cache, tell)
            self._likelihood.cut = written.cut
            return measure_texts(task, items, written.texts, self._how)
        if task.form == "text":
            return measure_perplexity(task, items, self._judged, self._cache, self._how, tell)
        measure = measure_continuations if task.form == "continuation" else measure_choices
        return measure(task, items, self._answers(task, items, tell), self._how)

    def _answers(self, task: Task, items: Sequence[Item], tell: Told) -> list[list[Answer]]:
        pairs = [pair for item in items for pair in item.options]
        answers = iter(self._likelihood.answers(encode(self._judged, pairs, task.name), task.name, tell))
        return [[next(answers) for _ in item.options] for item in items]

    def _checkpoint(self) -> dict[str, Any]:
        judged = self._judged
        return {
            "name": judged.checkpoint.name,
            "sha256": weights_sha256(judged.checkpoint),
            "step": judged.description.get("step"),
            "trained_tokens": judged.description.get("tokens"),
            "parameters": judged.model.parameters_count(),
            "objective": judged.name,
            "score": self._likelihood.score,
            "context_length": judged.context_length,
            "precision": judged.compute.precision,
        }


def model_digest(folder: Path) -> str:
    """What the answers of a checkpoint are kept under: a digest of the files that decide them."""
    known = hashlib.sha256()
    for name in _FILES:
        if (folder / name).is_file():
            known.update(f"{name} {file_digest(folder / name)}\n".encode())
    return known.hexdigest()
