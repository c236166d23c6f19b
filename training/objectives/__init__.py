"""Pretraining tasks. The trainer knows none of them: it hands rows to an objective and gets a loss back."""

from __future__ import annotations

import importlib

from torch import Tensor, nn

from training.config import ObjectiveConfig
from training.objectives.mixture import Mixture
from training.objectives.objective import Batch, Measures, Objective, Setting

__all__ = ["Batch", "LossModule", "Measures", "Mixture", "Objective", "Setting", "build"]

_CLASSES = {
    "causal": "CausalObjective",
    "masked": "MaskedObjective",
    "replaced_token": "ReplacedTokenObjective",
    "permutation": "PermutationObjective",
    "span_corruption": "SpanCorruptionObjective",
    "prefix": "PrefixObjective",
    "contrastive": "ContrastiveObjective",
}
"""The class of each objective, in the module of the objective's name."""


class LossModule(nn.Module):
    """Model and objective as one module, so that DDP, FSDP and torch.compile see the whole step."""

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self._objective = objective

    def forward(self, batch: Batch) -> Tensor:
        """The mean loss of a batch, a scalar."""
        return self._objective.loss(self.model, batch)


def build(config: ObjectiveConfig, setting: Setting) -> Objective:
    """The objective that a config names, or the mixture of it and those beside it.

    Raises ValueError where the tokenizer lacks a special token that one of them needs.
    """
    if config.also:
        return Mixture(config, setting, [_one(part, setting) for part in config.all])
    return _one(config, setting)


def _one(config: ObjectiveConfig, setting: Setting) -> Objective:
    # By name, so that a run imports what it trains on alone.
    module = importlib.import_module(f"training.objectives.{config.name}")
    objective: Objective = getattr(module, _CLASSES[config.name])(config, setting)
    return objective
