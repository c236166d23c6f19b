"""Which models continue a text, by what they were trained on."""

from __future__ import annotations

from training.config import ObjectiveConfig

CONTINUING = ("causal", "prefix")
"""Objectives whose models continue a text."""


def continues_text(objective: ObjectiveConfig) -> bool:
    """Whether a model trained on this objective, or on several, can write what follows a prompt."""
    return any(one.name in CONTINUING for one in objective.all)


def sees_prefix(objective: ObjectiveConfig) -> bool:
    """Whether the prompt is seen whole: a prefix objective, not beside a causal one."""
    names = [one.name for one in objective.all]
    return "prefix" in names and "causal" not in names
