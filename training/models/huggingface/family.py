"""What a family of transformers has to say of itself."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import Any, ClassVar

from training.config import ModelConfig
from training.models.huggingface.counterparts import Counterpart
from training.models.huggingface.settings import Settings
from training.models.huggingface.stored import StoredTensors


class Family(ABC):
    """An architecture of transformers that a trunk can be written as and read from."""

    name: ClassVar[str]
    """`model_type` of transformers."""
    architecture: ClassVar[str]
    """Class of transformers with a language-modelling head."""
    prefix: ClassVar[str]
    """What the names of all tensors but the head's begin with; files of the bare trunk leave it out."""
    ignored: ClassVar[re.Pattern[str]]
    """Tensors of old files that hold no weights."""
    ties_by_default: ClassVar[bool] = False
    """`tie_word_embeddings` where config.json does not say."""

    @abstractmethod
    def obstacles(self, config: ModelConfig) -> list[str]:
        """One line for each setting that this family cannot hold, with what it would have to be."""

    @abstractmethod
    def to_settings(self, config: ModelConfig) -> dict[str, Any]:
        """The entries of config.json that describe the trunk."""

    @abstractmethod
    def to_config(self, settings: Settings, tensors: StoredTensors) -> ModelConfig:
        """The trunk that a config.json describes; raises ValueError naming the key where there is none."""

    @abstractmethod
    def counterparts(self, config: ModelConfig, settings: Settings, vocabulary_size: int) -> list[Counterpart]:
        """All tensors of the family. Biases on one side alone are zero on the other."""


def common_obstacles(config: ModelConfig) -> list[str]:
    """What no family of transformers can hold."""
    lines = obstacles(config, attention=["causal"], norm_position=["pre"], embedding_norm=[False], bigram_buckets=[0])
    if config.blocks != config.layers:
        lines.append(f"layer_groups is {config.blocks}, must be {config.layers} (every layer has weights of its own)")
    return lines


def obstacles(config: ModelConfig, **allowed: list[Any]) -> list[str]:
    """One line for each field whose value is none of the allowed ones."""
    return [
        f"{name} is {_shown(getattr(config, name))}, must be {' or '.join(map(_shown, values))}"
        for name, values in allowed.items()
        if getattr(config, name) not in values
    ]


def effective_window(config: ModelConfig) -> int | None:
    """The sliding window, where it is shorter than the context and some layer has it."""
    without = config.window is None or config.window >= config.context_length or config.global_every == 1
    return None if without else config.window


def layer_count(settings: Settings, key: str, default: int, tensors: StoredTensors) -> int:
    """The number of layers; raises ValueError where the files cannot hold as many."""
    layers = settings.integer(key, default)
    if layers > len(tensors):
        raise ValueError(f"{key}: {layers} layers, but the files hold {len(tensors)} tensors in all")
    return layers


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
