"""Distillation: a student that starts from parts of a model, and the loss by which a teacher teaches it.

Shape suffixes: B sequences, T tokens, N positions, D residual width, E width of the teacher, H heads, K head width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from training.compression.config import DistillationConfig, StudentConfig
from training.compression.distillation_losses import (
    attention_loss,
    attention_scores,
    cosine_loss,
    seen_scores,
    soft_loss,
    state_loss,
)
from training.compression.pruning_cut import Kept, check_cut, cut
from training.compression.pruning_importance import Importance, evenly_spaced, most_important
from training.config import ModelConfig
from training.models import Model, build
from training.models.transformer import Transformer
from training.objectives import Batch, Objective
from training.objectives.cross_entropy import IGNORED

PREDICTS = ("causal", "prefix", "masked", "permutation", "span_corruption")
"""Objectives whose loss is over the vocabulary, at the positions of `targets`."""


def check_student(config: ModelConfig, student: StudentConfig) -> None:
    """Raise ValueError naming a field of a student that cannot be made of a model of this shape."""
    if student == StudentConfig(initial=student.initial):
        return
    check_cut(config, student.layers is not None, student.heads is not None, student.width is not None)
    limits = {
        "layers": config.layers,
        "heads": config.heads,
        "mlp_width": config.hidden_width,
        "width": config.width,
    }
    for name, most in limits.items():
        value = getattr(student, name)
        if value is not None and value > most:
            raise ValueError(f"student.{name}: {value} is more than the model's {most}, from whose parts it starts")
    served = config.heads // config.key_value_heads
    if student.heads is not None and student.heads % served:
        raise ValueError(f"student.heads must be a multiple of {served}, the query heads of a key head")


def make_student(model: Transformer, student: StudentConfig, importance: Importance, seed: int) -> Transformer:
    """The smaller trunk: of the model's most important parts, or of their shape with weights drawn anew.

    `importance` is that of the model. Raises ValueError as `check_student` does.
    """
    config = model.config
    check_student(config, student)
    layers = None if student.layers is None else evenly_spaced(config.layers, student.layers)
    groups = neurons = channels = None
    if student.heads is not None:
        count = student.heads * config.key_value_heads // config.heads
        groups = [most_important(scores, count) for scores in importance.groups]
    if student.mlp_width is not None:
        neurons = [most_important(scores, student.mlp_width) for scores in importance.neurons]
    if student.width is not None:
        channels = most_important(importance.channels, student.width)
    made = cut(model, Kept(layers, groups, neurons, channels))
    if student.initial == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            drawn: Transformer = build(made.config, made.vocabulary_size)
        made = drawn.to(model.embedding.weight.device)
    return made


class Teaching:
    """The loss of a student beside its teacher: `loss` of a batch, a scalar, and its parts by name.

    Where widths differ and hidden states are learned, the student gets a matrix `projection` (a submodule, so that the
    optimiser trains it and checkpoints hold it); `finish` takes it away. Raises ValueError where the two cannot be
    compared, naming the field.
    """

    def __init__(self, config: DistillationConfig, student: Model, teacher: Model, objective: Objective) -> None:
        self._config, self._student, self._teacher, self._objective = config, student, teacher, objective
        _check_pair(config, student, teacher, objective)
        self._map = _layer_map(student, teacher)
        if config.hidden != "none" and student.config.width != teacher.config.width:
            projection = nn.Linear(student.config.width, teacher.config.width, bias=False)
            generator = torch.Generator().manual_seed(0)
            nn.init.normal_(projection.weight, std=student.config.width**-0.5, generator=generator)
            student.projection = projection.to(next(student.parameters()).device)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`, and what it is the weighted sum of: `hard`, `soft`, `hidden`, `attention`."""
        config = self._config
        with torch.no_grad(), _watched(self._teacher, config) as taught:
            with contextlib.suppress(_Enough):
                self._objective.loss(_Tapped(self._teacher, taught, enough=True), batch)
        with _watched(self._student, config) as seen:
            with contextlib.suppress(_Enough):
                tapped = _Tapped(self._student, seen, enough=not config.hard_weight)
                seen.hard = self._objective.loss(tapped, batch)
            parts = self._parts(seen, taught, batch)
        weights = {
            "hard": config.hard_weight,
            "soft": config.soft_weight,
            "hidden": config.hidden_weight,
            "attention": config.attention_weight,
        }
        total = torch.stack([weights[name] * value for name, value in parts.items()]).sum()
        return {"loss": total, **{name: value.detach() for name, value in parts.items()}}

    def finish(self) -> None:
        """Take away what only the training needed."""
        if hasattr(self._student, "projection"):
            del self._student.projection

    def _parts(self, seen: _Watched, taught: _Watched, batch: Batch) -> dict[str, Tensor]:
        config = self._config
        parts: dict[str, Tensor] = {}
        if config.hard_weight:
            assert seen.hard is not None
            parts["hard"] = seen.hard
        if config.soft_weight:
            counted_N = batch["targets"].flatten() != IGNORED
            heads = self._student.head, self._teacher.head
            assert seen.read is not None
            assert taught.read is not None
            parts["soft"] = soft_loss(seen.read, heads[0], taught.read, heads[1], counted_N, config.temperature)
        if config.hidden != "none":
            parts["hidden"] = self._hidden(seen, taught, batch)
        if config.attention_weight:
            parts["attention"] = self._attention(seen, taught)
        return parts

    def _hidden(self, seen: _Watched, taught: _Watched, batch: Batch) -> Tensor:
        counted_BT = self._counted(batch)
        if self._config.hidden == "cosine":
            assert seen.last is not None
            assert taught.last is not None
            return cosine_loss(self._projected(seen.last), taught.last, counted_BT)
        losses = [
            state_loss(self._projected(seen.states[ours]), taught.states[theirs], counted_BT)
            for ours, theirs in enumerate(self._map)
        ]
        return torch.stack(losses).mean()

    def _attention(self, seen: _Watched, taught: _Watched) -> Tensor:
        losses = [
            attention_loss(scores, taught.scores[theirs - 1][0], visible)
            for (scores, visible), theirs in zip(seen.scores, self._map[1:], strict=True)
        ]
        return torch.stack(losses).mean()

    def _projected(self, x_BTD: Tensor) -> Tensor:
        projection = getattr(self._student, "projection", None)
        return x_BTD if projection is None else projection(x_BTD)

    def _counted(self, batch: Batch) -> Tensor:
        """Which tokens are text (B, T); with other objectives than masked words there is no padding in training."""
        if self._objective.config.name == "masked":
            return batch["documents"] > 0
        return torch.ones_like(batch["inputs"], dtype=torch.bool)


class _Enough(Exception):
    """What was to be seen of a forward pass has been seen."""


class _Watched:
    """What one forward pass computes on its way."""

    def __init__(self) -> None:
        self.read: Tensor | None = None
        """What the head of the vocabulary multiplies (N, D)."""
        self.last: Tensor | None = None
        """The hidden states as the heads read them (B, T, D)."""
        self.states: list[Tensor] = []
        """The embeddings, and the stream behind each layer (B, T, D)."""
        self.scores: list[tuple[Tensor, Tensor]] = []
        """Attention scores (B, H, T, T) of each layer, and which of them are seen."""
        self.hard: Tensor | None = None


class _Tapped:
    """A model as an objective uses it, whose `hidden` and `readout` are looked at."""

    def __init__(self, model: Model, watched: _Watched, enough: bool) -> None:
        self._model, self._watched, self._enough = model, watched, enough

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def hidden(self, *arguments: Any, **given: Any) -> Tensor:
        """The model's."""
        self._watched.last = self._model.hidden(*arguments, **given)
        return self._watched.last

    def readout(self, hidden_ND: Tensor) -> Tensor:
        """The model's; ends the pass where nothing else is wanted of it."""
        self._watched.read = self._model.readout(hidden_ND)
        if self._enough:
            raise _Enough
        return self._watched.read


@contextlib.contextmanager
def _watched(model: Model, config: DistillationConfig) -> Iterator[_Watched]:
    """Watch the blocks of a model as far as the loss needs them."""
    watched = _Watched()
    handles = []
    for block in model.blocks:
        if config.hidden == "mse":
            handles.append(block.register_forward_hook(_states(watched.states)))
        if config.attention_weight:
            handles.append(block.attention.register_forward_pre_hook(_scores(watched.scores)))
    try:
        yield watched
    finally:
        for handle in handles:
            handle.remove()


def _states(into: list[Tensor]) -> Any:
    def keep(module: nn.Module, arguments: Any, output: Tensor) -> None:
        if not into:
            into.append(arguments[0])
        into.append(output)

    return keep


def _scores(into: list[tuple[Tensor, Tensor]]) -> Any:
    def keep(module: Any, arguments: Any) -> None:
        x_BTD, context = arguments[:2]
        q_BHTK, k_BGTK, _ = module.projections(x_BTD, context)
        batch, tokens, _ = x_BTD.shape
        seen = seen_scores(context.pattern, batch, tokens, x_BTD.device)
        into.append((attention_scores(q_BHTK, k_BGTK), seen))

    return keep


def _layer_map(student: Model, teacher: Model) -> list[int]:
    """For the student's embeddings and each of its layers the place of the teacher's (0: embeddings), evenly spaced."""
    ours, theirs = student.config.layers, teacher.config.layers
    return [0, *(place + 1 for place in evenly_spaced(theirs, ours))]


def _check_pair(config: DistillationConfig, student: Model, teacher: Model, objective: Objective) -> None:
    names = [one.name for one in objective.config.all]
    if len(names) > 1 or names[0] not in PREDICTS:
        raise ValueError(
            f"distil: a teacher teaches models of one of the objectives {', '.join(PREDICTS)}; this model was trained "
            f"on {', '.join(names)}"
        )
    if student.vocabulary_size != teacher.vocabulary_size:
        raise ValueError(
            f"distil.teacher: its vocabulary has {teacher.vocabulary_size} ids, the student's {student.vocabulary_size}"
        )
    looks_inside = config.hidden != "none" or config.attention_weight > 0
    if looks_inside and not (isinstance(student, Transformer) and isinstance(teacher, Transformer)):
        raise ValueError("distil.hidden and distil.attention_weight need model.architecture: transformer")
    if looks_inside and student.config.layers > teacher.config.layers:
        raise ValueError(
            f"distil.teacher: {teacher.config.layers} layers are fewer than the student's {student.config.layers}"
        )
    if config.attention_weight and student.config.heads != teacher.config.heads:
        raise ValueError(
            f"distil.attention_weight: the student has {student.config.heads} heads, the teacher "
            f"{teacher.config.heads}; scores are compared head by head, so leave student.heads unset"
        )
