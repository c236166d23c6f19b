"""Texts that the model writes while it is trained, from the same prompts each time: samples.jsonl."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from training.callbacks import Callback, Row
from training.callbacks.journal import StepLines
from training.config.generation import GenerationConfig
from training.trainer import Trainer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FILE_NAME = "samples.jsonl"
SAMPLING = GenerationConfig(max_new_tokens=60)


class Samples(Callback):
    """Continues `sample_prompts` every `samples_every` steps: a JSON line {step, prompt, continuation} for each.

    The same seed each time, and none of the run's random numbers. With an average of the weights (EMA) it is the
    average that writes. All processes compute the same text, since a sharded model needs them all; the main one writes
    it. Without a tokenizer, or the package tokenizers, there is one warning and no text.
    """

    name = "samples"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: StepLines | None = None
        self._tokenizer: Tokenizer | None = None

    def on_start(self, trainer: Trainer) -> None:
        """Load the tokenizer, and cut the file back to the step where the run goes on."""
        if not trainer.run.training.samples_every:
            return
        if not trainer.objective.likelihood:
            name = trainer.run.objective.name
            trainer.report("warning", message=f"no sample texts: a model trained on {name} does not continue a text")
            return
        if self._tokenizer is None:
            from training.generation import read_tokenizer

            try:
                if trainer.run.tokenizer_path is None:
                    raise ValueError("the run names no tokenizer_path")
                self._tokenizer = read_tokenizer(trainer.run.tokenizer_path)
            except ValueError as error:
                trainer.report("warning", message=f"no sample texts: {error}")
                return
        if trainer.world.is_main:
            self._lines = self._lines or StepLines(self._path)
            self._lines.open(trainer.step)

    def on_step_end(self, trainer: Trainer, row: Row) -> None:
        """Write and report the texts when they are due."""
        every = trainer.run.training.samples_every
        if not every or self._tokenizer is None or not trainer.due(every):
            return
        try:
            lines = write_samples(trainer, self._tokenizer)
        except ValueError as error:
            # A tokenizer of another vocabulary; every process finds the same.
            trainer.report("warning", message=f"no sample texts: {error}")
            self._tokenizer = None
            return
        if self._lines is not None:
            self._lines.append(*lines)
        trainer.report("samples", step=trainer.step, samples=lines)

    def close(self) -> None:
        """Close the file."""
        if self._lines is not None:
            self._lines.close()


def write_samples(trainer: Trainer, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """Continue each prompt of the run; raises ValueError where the tokenizer is not the model's."""
    from training.generation import Generator

    generator = Generator(_Agreed(trainer), tokenizer, trainer.run.end_of_text)  # type: ignore[arg-type]
    with trainer.inference(), trainer.compute.autocast():
        samples = generator.sample(trainer.run.training.sample_prompts, SAMPLING)
    return [{"step": trainer.step, "prompt": sample.prompt, "continuation": sample.continuation} for sample in samples]


class _Agreed:
    """The model as a Generator uses it, but with the main process's logits in every process.

    All must choose the same token: one that ended its text before the others would leave them waiting for it.
    """

    def __init__(self, trainer: Trainer) -> None:
        model = trainer.model
        self.config, self.vocabulary_size, self.parameters = model.config, model.vocabulary_size, model.parameters
        self._trainer = trainer

    def hidden(self, ids_BT: Tensor) -> Tensor:
        self._trainer.beat()
        # Parameters that FSDP2 gathers in inference mode would be of no use to the training that follows.
        with torch.inference_mode(False), torch.no_grad():
            return self._trainer.model.hidden(ids_BT.clone())

    def readout(self, hidden_D: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.no_grad():
            return self._trainer.model.readout(hidden_D)

    def head(self, hidden_D: Tensor) -> Tensor:
        world = self._trainer.world
        with torch.inference_mode(False), torch.no_grad():
            logits_V: Tensor = self._trainer.model.head(hidden_D).float()
            return world.sum(logits_V if world.is_main else torch.zeros_like(logits_V))
