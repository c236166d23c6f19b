"""Whether a model and an objective can be made at all, before there is a token to train on."""

from __future__ import annotations

import torch

from training.config import ModelConfig, ObjectiveConfig, SpecialTokens, check_fit
from training.models import build
from training.objectives import Setting
from training.objectives import build as build_objective


def try_out(model: ModelConfig, objective: ObjectiveConfig, sequence_length: int, vocabulary_size: int = 1024) -> None:
    """Make both without data, and the form of the rows; raises ValueError naming what does not go together.

    Examples that an objective reads from a file are not looked at.
    """
    check_fit(model, objective)
    with torch.device("meta"):
        build(model, vocabulary_size + objective.extra_tokens)
    task = build_objective(objective, Setting(vocabulary_size, 0, SpecialTokens(*range(1, 5))))
    if all(one.contrastive.examples is None for one in objective.all):
        task.form(sequence_length)
