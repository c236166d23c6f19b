"""Several objectives of one model at once, each with rows of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from training.config import ObjectiveConfig
from training.objectives.objective import Batch, Measures, Objective, Setting
from training.rows import Form, Several


class Mixture(Objective):
    """The weighted sum of the losses of its parts, as in UniLM (Dong et al. 2019, section 2.3).

    Tensors and metrics of a part carry its number or its name before their own: `0/tokens`, `masked/loss`. `loss` of
    the evaluation is the weighted sum of the parts' mean losses of a row, a mean over rows.
    """

    def __init__(self, config: ObjectiveConfig, setting: Setting, parts: Sequence[Objective]) -> None:
        super().__init__(config, setting)
        self._parts = parts

    def form(self, length: int) -> Form:
        """The forms of the parts."""
        return Several(tuple(part.form(length) for part in self._parts))

    def prepare(self, rows: Batch, training: bool = True) -> Batch:
        """The batches of the parts."""
        made: Batch = {}
        for index, part in enumerate(self._parts):
            batch = part.prepare(_of(rows, index), training)
            made |= {f"{index}/{name}": tensor for name, tensor in batch.items()}
        return made

    def loss(self, model: Any, batch: Batch) -> Tensor:
        """The weighted sum."""
        losses = [part.config.weight * part.loss(model, _of(batch, index)) for index, part in enumerate(self._parts)]
        return torch.stack(losses).sum()

    def evaluate(self, model: Any, batch: Batch) -> Measures:
        """The metrics of the parts by their names, and the loss."""
        measures: Measures = {}
        total: Tensor | None = None
        counted: Tensor | None = None
        for index, part in enumerate(self._parts):
            found = part.evaluate(model, _of(batch, index))
            sums, counts = found["loss"]
            loss = part.config.weight * sums / counts.clamp(min=1)
            total = loss if total is None else total + loss
            counted = counts > 0 if counted is None else counted | (counts > 0)
            measures |= {f"{part.config.name}/{name}": measure for name, measure in found.items()}
        assert total is not None
        assert counted is not None
        return {"loss": (total, counted.long()), **measures}

    def flops_per_token(self, model: Any, length: int) -> int:
        """Of all passes."""
        return sum(part.flops_per_token(model, length) for part in self._parts)

    def state_tensors(self) -> dict[str, Tensor]:
        """Those of the parts."""
        return {
            f"{index}/{name}": tensor
            for index, part in enumerate(self._parts)
            for name, tensor in part.state_tensors().items()
        }

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Each part takes up its own."""
        for index, part in enumerate(self._parts):
            part.load_state_tensors(_of(tensors, index))

    def after_step(self, model: Any) -> None:
        """Tell the parts."""
        for part in self._parts:
            part.after_step(model)


def _of(tensors: Batch, index: int) -> Batch:
    prefix = f"{index}/"
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
