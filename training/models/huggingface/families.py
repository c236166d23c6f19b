"""The families, and which of them a model or a folder belongs to."""

from __future__ import annotations

from training.config import ModelConfig
from training.models.huggingface.albert import Albert
from training.models.huggingface.bert import Bert
from training.models.huggingface.electra import Electra, ElectraGenerator
from training.models.huggingface.family import Family
from training.models.huggingface.gpt2 import GPT2
from training.models.huggingface.llama import Llama
from training.models.huggingface.modernbert import ModernBert
from training.models.huggingface.qwen3 import Qwen3
from training.models.huggingface.roberta import Roberta
from training.models.huggingface.settings import Settings
from training.models.huggingface.t5 import T5
from training.models.huggingface.xlnet import XLNet

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        GPT2(),
        Llama(),
        Qwen3(),
        Roberta(),
        Bert(),
        ModernBert(),
        Electra(),
        ElectraGenerator(),
        Albert(),
        XLNet(),
        T5(),
    )
}
"""By name, in the order in which a model looks for one that can hold it."""


def family_for(config: ModelConfig, name: str | None = None) -> Family:
    """The family that can hold a model: the named one, or by default the first that can.

    Raises ValueError naming every setting that stands in the way and what it would have to be, of the nearest family
    where none is named.
    """
    if name is not None and name not in FAMILIES:
        raise ValueError(f"family: {name!r} is unknown; there are {', '.join(FAMILIES)}")
    candidates = list(FAMILIES.values()) if name is None else [FAMILIES[name]]
    nearest = min(candidates, key=lambda family: _distance(family, config))
    if lines := nearest.obstacles(config):
        opening = (
            f"{nearest.architecture(config)} cannot hold this model"
            if name is not None
            else f"no family of transformers can hold this model; the nearest is {nearest.name}"
        )
        raise ValueError(f"{opening}: " + "; ".join(lines))
    return nearest


def _distance(family: Family, config: ModelConfig) -> tuple[bool, int]:
    """How far a family is from holding a model; one of another architecture is further than any other."""
    lines = family.obstacles(config)
    return any(line.startswith("architecture is ") for line in lines), len(lines)


def family_of(settings: Settings) -> Family:
    """The family that a config.json names; raises ValueError where it names none or an unknown one."""
    return _KNOWN[architecture_of(settings)]


def architecture_of(settings: Settings) -> str:
    """The class of transformers that a config.json names; raises ValueError where it names none or an unknown one."""
    named = settings.get("architectures")
    known = ", ".join(_KNOWN)
    if not isinstance(named, list) or not named:
        raise ValueError(f"architectures: missing, so that the model's class is unknown; known are {known}")
    for architecture in named:
        if isinstance(architecture, str) and architecture in _KNOWN:
            return architecture
    raise settings.wrong("architectures", named, known)


def auto_class(architecture: str) -> str:
    """The Auto class of transformers that loads a class of models."""
    return _KNOWN[architecture].architectures[architecture]


_KNOWN = {architecture: family for family in FAMILIES.values() for architecture in family.architectures}
