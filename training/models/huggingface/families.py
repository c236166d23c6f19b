"""The families, and which of them a model or a folder belongs to."""

from __future__ import annotations

from training.config import ModelConfig
from training.models.huggingface.family import Family
from training.models.huggingface.gpt2 import GPT2
from training.models.huggingface.llama import Llama
from training.models.huggingface.qwen3 import Qwen3
from training.models.huggingface.settings import Settings

FAMILIES: dict[str, Family] = {family.name: family for family in (GPT2(), Llama(), Qwen3())}


def family_for(config: ModelConfig, name: str | None = None) -> Family:
    """The family that can hold a model: the named one, or by default the first that can.

    Raises ValueError naming every setting that stands in the way and what it would have to be, of the nearest family
    where none is named.
    """
    if name is not None and name not in FAMILIES:
        raise ValueError(f"family: {name!r} is unknown; there are {', '.join(FAMILIES)}")
    candidates = list(FAMILIES.values()) if name is None else [FAMILIES[name]]
    nearest = min(candidates, key=lambda family: len(family.obstacles(config)))
    if lines := nearest.obstacles(config):
        opening = (
            f"{nearest.architecture} cannot hold this model"
            if name is not None
            else f"no family of transformers can hold this model; the nearest is {nearest.name}"
        )
        raise ValueError(f"{opening}: " + "; ".join(lines))
    return nearest


def family_of(settings: Settings) -> Family:
    """The family that a config.json names; raises ValueError where it names none or an unknown one."""
    named = settings.get("architectures")
    known = {family.architecture: family for family in FAMILIES.values()}
    if not isinstance(named, list) or not named:
        raise ValueError(f"architectures: missing, so that the model's class is unknown; known are {', '.join(known)}")
    for architecture in named:
        if isinstance(architecture, str) and architecture in known:
            return known[architecture]
    raise settings.wrong("architectures", named, ", ".join(known))
