"""What a family of transformers has to say of itself."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import nn

from training.config import ModelConfig
from training.models.huggingface.counterparts import Counterpart
from training.models.huggingface.settings import Settings
from training.models.huggingface.stored import StoredTensors
from training.models.huggingface.tokenizer import SpecialTokens, Template


class Family(ABC):
    """An architecture of transformers that a model can be written as and read from."""

    name: ClassVar[str]
    """Name of the family here; `model_type` of transformers, where `model_type` is not set."""
    model_type: ClassVar[str] = ""
    """`model_type` of transformers where it is not the name."""
    architectures: ClassVar[Mapping[str, str]]
    """Classes of transformers whose files can be read, each with the Auto class that loads it; the first is what is
    written (see `architecture`)."""
    kind: ClassVar[Literal["causal", "encoder", "encoder_decoder"]] = "causal"
    """causal: writes text, and so has a generation_config.json; encoder: reads it; encoder_decoder: both."""
    prefix: ClassVar[str]
    """What the names of all tensors but the head's begin with; files of the bare trunk leave it out."""
    ignored: ClassVar[re.Pattern[str]] = re.compile(r"(?!)")
    """Tensors of old files, or of parts that Headrace has not, that change nothing of what the model computes here."""
    old_names: ClassVar[Mapping[str, str]] = {}
    """How names in old files end, and what stands for it in new ones."""
    tied: ClassVar[Mapping[str, str]] = {}
    """With tied embeddings: tensors that files may hold all the same, and of which tensor they must be a copy."""
    optional: ClassVar[re.Pattern[str]] = re.compile(r"(?!)")
    """Tensors (by their full names) that files of the bare trunk lack: where none of them is there, they are drawn
    anew, and the checkpoint's config.json names them under `imported.untrained`."""
    ties_by_default: ClassVar[bool] = False
    """`tie_word_embeddings` where config.json does not say."""
    template: ClassVar[Template | None] = None
    """Special tokens that the model was trained with around its texts; the exported tokenizer adds them."""
    reads_types: ClassVar[bool] = False
    """Whether the forward pass of transformers takes token_type_ids."""

    @abstractmethod
    def obstacles(self, config: ModelConfig) -> list[str]:
        """One line for each setting that this family cannot hold, with what it would have to be."""

    @abstractmethod
    def to_settings(self, config: ModelConfig) -> dict[str, Any]:
        """The entries of config.json that describe the model; they override those that all families have."""

    @abstractmethod
    def to_config(self, settings: Settings, tensors: StoredTensors) -> ModelConfig:
        """The model that a config.json describes; raises ValueError naming the key where there is none.

        `tensors` has the names of the files (those of `old_names` as the new ones): see `holds`.
        """

    @abstractmethod
    def counterparts(self, config: ModelConfig, settings: Settings, vocabulary_size: int) -> list[Counterpart]:
        """All tensors of the family, tied copies left out. Biases on one side alone are zero on the other."""

    def architecture(self, config: ModelConfig) -> str:
        """Class of transformers that a model is written as."""
        return next(iter(self.architectures))

    def token_settings(self, config: ModelConfig, special: SpecialTokens) -> dict[str, Any]:
        """The entries of config.json that depend on the tokenizer's special tokens."""
        if self.kind == "causal":
            # Not the end of the text, even where that pads: the embedding of this id would never be trained again.
            return {"bos_token_id": special.begin, "eos_token_id": special.end, "pad_token_id": None}
        return {"bos_token_id": special.first, "eos_token_id": special.separator, "pad_token_id": special.own_padding}

    def part(self, model: nn.Module, config: ModelConfig) -> tuple[nn.Module, ModelConfig]:
        """The part of a model of ours that is written, with its own config; by default all of it.

        `to_settings`, `counterparts`, `architecture` and `token_settings` get this config; `obstacles` gets the one of
        the whole model.
        """
        return model, config


def holds(tensors: StoredTensors, ending: str) -> bool:
    """Whether the files hold a tensor whose name ends like this."""
    return any(name.endswith(ending) for name in tensors)


def causal_obstacles(config: ModelConfig) -> list[str]:
    """What no causal family of transformers can hold."""
    lines = obstacles(
        config,
        architecture=["transformer"],
        attention=["causal"],
        norm_position=["pre"],
        embedding_norm=[False],
        first_norm=[True],
        bigram_buckets=[0],
        embedding_width=[None],
        token_types=[0],
        head=["linear"],
        head_bias=[False],
        pooler=[False],
        sentence_classes=[0],
        rope_theta_windowed=[None, config.rope_theta],
    )
    return lines + _own_layers(config)


def encoder_obstacles(config: ModelConfig, shared_layers: bool = False) -> list[str]:
    """What no encoder of transformers can hold; only some have layers that share their weights."""
    lines = obstacles(
        config,
        architecture=["transformer"],
        attention=["bidirectional"],
        norm=["layernorm"],
        embedding_norm=[True],
        qk_norm=["none"],
        bigram_buckets=[0],
    )
    if config.key_value_heads != config.heads:
        lines.append(f"kv_heads is {config.key_value_heads}, must be {config.heads} (as many as heads)")
    if config.width_of_head * config.heads != config.width:
        lines.append(f"head_width is {config.width_of_head}, must be width / heads")
    return lines if shared_layers else lines + _own_layers(config)


def _own_layers(config: ModelConfig) -> list[str]:
    if config.blocks == config.layers:
        return []
    return [f"layer_groups is {config.blocks}, must be {config.layers} (every layer has weights of its own)"]


def obstacles(config: ModelConfig, **allowed: list[Any]) -> list[str]:
    """One line for each field whose value is none of the allowed ones."""
    return [
        f"{name} is {_shown(getattr(config, name))}, must be {' or '.join(dict.fromkeys(map(_shown, values)))}"
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
