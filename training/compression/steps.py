"""What each step does to the model: distil, prune, quantize, each with its training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from training.callbacks.journal import StepLines
from training.checkpoints import load_model
from training.compression.config import CompressionConfig, CompressionStep, PruningConfig, TuningConfig
from training.compression.distillation import Teaching, check_student, make_student
from training.compression.pruning_cut import Kept, check_cut, cut
from training.compression.pruning_importance import (
    NEURON_MULTIPLE,
    Importance,
    kept_count,
    magnitudes,
    measure_importance,
    most_important,
)
from training.compression.pruning_masks import GradualMasks, Masks, magnitude_masks, prunable, two_of_four_masks
from training.compression.stages import HEAD, check_finite
from training.compression.tuning import Held, Loss, Report, Tuning
from training.config import ModelConfig, Shard
from training.devices import Compute
from training.evaluation.judged import Judged
from training.evaluation.perplexity import read_shard
from training.loader import TrainLoader, as_tensors, on_device
from training.models import Model
from training.objectives import Batch


class Workbench:
    """What the steps of a job share: the model that it began with, the text, the journal.

    Attributes: judged (of the parent), compute. Raises ValueError where a step cannot be done to this model, before
    any work, and where a step needs text and there is none.
    """

    def __init__(
        self, settings: CompressionConfig, judged: Judged, shards: Sequence[Shard], output: Path, report: Report
    ) -> None:
        self.settings, self.judged = settings, judged
        self.compute: Compute = judged.compute
        self._shards = [shard for shard in shards if shard.split == "train" and shard.tokens]
        self._journal = StepLines(output / "metrics.jsonl")
        self._training, self._report = output / "training", report
        self._updates = sum(step.tuning.steps for step in settings.steps)
        self._check()

    def apply(self, index: int, model: Model, zeros: bool, identity: str) -> Model:
        """The model behind step `index` (from 0), of the one before it; `zeros`: keep those that it has.

        The model before may be changed in place.
        """
        step = self.settings.steps[index]
        check_finite(model, self.judged.checkpoint)
        if step.distil is not None:
            return self._distil(index, step, model, zeros, identity)
        if step.prune is not None:
            return self._prune(index, step, step.prune, model, zeros, identity)
        return self._quantize(index, step, model, zeros, identity)

    def close(self) -> None:
        """Close the journal."""
        self._journal.close()

    def _distil(self, index: int, step: CompressionStep, model: Model, zeros: bool, identity: str) -> Model:
        config = step.distil
        assert config is not None
        student = model
        if config.student != type(config.student)():
            importance = self._importance(model, self.settings.calibration_batches, step.tuning)
            student = make_student(model, config.student, importance, self.settings.seed)
        folder = Path(config.teacher) if config.teacher else self.judged.checkpoint
        teacher = load_model(folder, self.compute.device)[0].requires_grad_(False)
        check_finite(teacher, folder)
        teaching = Teaching(config, student, teacher, self.judged.objective)
        held = Masks.of_zeros(student) if zeros else None
        self._tune(index, step.tuning, student, identity, teaching.loss, held)
        teaching.finish()
        return student

    def _prune(
        self, index: int, step: CompressionStep, config: PruningConfig, model: Model, zeros: bool, identity: str
    ) -> Model:
        held: Held | None = None
        if config.masks:
            held = self._masks(config, model, step.tuning)
        else:
            model = self._cut(config, model, step.tuning)
            held = Masks.of_zeros(model) if zeros else None
        self._tune(index, step.tuning, model, identity, None, held)
        return model

    def _masks(self, config: PruningConfig, model: Model, tuning: TuningConfig) -> Masks:
        if config.method == "2:4":
            return Masks(model, two_of_four_masks(prunable(model)))
        if tuning.steps and config.gradual:
            end = max(1, round(config.gradual_end * tuning.steps))
            return GradualMasks(model, config.share, config.scope, end, config.gradual_every)
        return Masks(model, magnitude_masks(prunable(model), config.share, config.scope))

    def _cut(self, config: PruningConfig, model: Model, tuning: TuningConfig) -> Model:
        """The model without its least important layers, heads or neurons."""
        shape: ModelConfig = model.config
        importance: Importance | None = None
        if config.importance == "gradient" or config.method == "layers":
            importance = self._importance(model, config.calibration_batches, tuning)
        if config.method == "layers":
            assert importance is not None
            if not shape.first_norm:
                importance.layers[0] = float("inf")  # what it reads is normalised already
            count = _left("layers", shape.layers, config.share)
            return cut(model, Kept(layers=most_important(importance.layers, count)))
        groups, neurons = magnitudes(model) if importance is None else (importance.groups, importance.neurons)
        if config.method == "heads":
            count = _left("groups of heads", shape.key_value_heads, config.share)
            return cut(model, Kept(groups=[most_important(scores, count) for scores in groups]))
        count = _left("neurons", shape.hidden_width, config.share, NEURON_MULTIPLE)
        return cut(model, Kept(neurons=[most_important(scores, count) for scores in neurons]))

    def _quantize(self, index: int, step: CompressionStep, model: Model, zeros: bool, identity: str) -> Model:
        from training.compression.quantization import convert, prepare_qat, quantize

        config = step.quantize
        assert config is not None
        if step.tuning.steps:
            prepare_qat(model, config)
            held = Masks.of_zeros(model) if zeros else None
            self._tune(index, step.tuning, model, identity, None, held)
            convert(model)
        else:
            quantize(model, config, self._calibration(model) if self._shards else None)
        return model

    def _tune(
        self, index: int, tuning: TuningConfig, model: Model, identity: str, loss: Loss | None, held: Held | None
    ) -> None:
        if not tuning.steps:
            return
        if getattr(model, "bigrams", None) is not None:
            model.bigrams.sparse = self.compute.device.type == "cpu"
        training = Tuning(
            tuning,
            model,
            self.judged.objective,
            self._loader(tuning),
            self.compute,
            seed=self.settings.seed + index,
            identity=identity,
            folder=self._training / f"step-{index + 1}",
            loss=loss,
            held=held,
        )
        first = sum(step.tuning.steps for step in self.settings.steps[:index])
        training.run(self._journal, first, self._updates, self._report)

    def _importance(self, model: Model, count: int, tuning: TuningConfig) -> Importance:
        return measure_importance(model, self.judged.objective, self._batches(count, tuning), self.compute)

    def _batches(self, count: int, tuning: TuningConfig) -> Iterator[Batch]:
        """The first batches of the training text, prepared."""
        loader, objective = self._loader(tuning), self.judged.objective
        for number in range(count):
            rows = on_device(as_tensors(loader.batch(number)), self.compute.device)
            yield objective.prepare(rows, training=False)

    def _calibration(self, model: Model) -> Iterator[Any]:
        """Ids (B, T) that a quantization measures activations on."""
        for batch in self._batches(self.settings.calibration_batches, self.settings.steps[-1].tuning):
            yield batch["inputs"]

    def _loader(self, tuning: TuningConfig) -> TrainLoader:
        length = tuning.sequence_length or self.judged.sequence_length
        form = self.judged.objective.form(length)
        return TrainLoader(self._shards, form, tuning.batch_size, self.settings.seed)

    def _check(self) -> None:
        """Refuse what cannot work, before anything is done."""
        shape: ModelConfig = self.judged.model.config
        for number, step in enumerate(self.settings.steps):
            if self._needs_text(step) and not self._shards:
                raise ValueError(f"steps[{number}]: {step.name} needs train shards in data, and there are none")
            length = step.tuning.sequence_length
            if length is not None and length > shape.context_length:
                raise ValueError(
                    f"steps[{number}].tuning.sequence_length ({length}) must not exceed the model's context of "
                    f"{shape.context_length}"
                )
            if step.distil is not None:
                check_student(shape, step.distil.student)
            if step.prune is not None and not step.prune.masks:
                check_cut(shape, step.prune.method == "layers", step.prune.method == "heads")
            if self._changes_width(step) and (self.judged.checkpoint / HEAD).is_file():
                raise ValueError(
                    f"steps[{number}].distil.student.width: the head of the task in {self.judged.checkpoint} reads the "
                    "whole width; leave it unset"
                )
        for shard in self._shards:
            read_shard(shard)

    def _needs_text(self, step: CompressionStep) -> bool:
        if step.tuning.steps:
            return True
        if step.quantize is not None:
            return step.quantize.method == "static_int8"
        prune = step.prune
        by_gradient = prune is not None and (prune.importance == "gradient" or prune.method == "layers")
        return by_gradient and prune is not None and not prune.masks

    def _changes_width(self, step: CompressionStep) -> bool:
        return step.distil is not None and step.distil.student.width is not None


def _left(parts: str, total: int, share: float, multiple: int = 1) -> int:
    """How many parts stay; raises ValueError where that is all of them."""
    count = kept_count(total, share, multiple)
    if count == total:
        raise ValueError(f"prune.share {share:g} of the model's {total} {parts} is none: nothing would be removed")
    return count
