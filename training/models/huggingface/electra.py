"""ELECTRA (Clark et al. 2020) as transformers holds it: the discriminator as ElectraForPreTraining, the generator as
ElectraForMaskedLM.

A model of both is written as one of them: as the discriminator, or as the generator with the family electra-generator.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any, ClassVar

from torch import nn

from training.config import ModelConfig
from training.models.huggingface.bert import (
    OLD_NAMES,
    embedding_counterparts,
    encoder_fields,
    encoder_settings,
    layer_counterparts,
    post_norm_obstacles,
    transform_counterparts,
)
from training.models.huggingface.counterparts import Counterpart, linear, vector
from training.models.huggingface.family import Family, encoder_obstacles, obstacles
from training.models.huggingface.settings import Settings
from training.models.huggingface.stored import StoredTensors
from training.models.huggingface.tokenizer import ENCODER


class _Electra(Family):
    """What the two have in common; their embeddings are projected where their width is another than the stream's."""

    model_type = "electra"
    kind = "encoder"
    prefix = "electra."
    ignored = re.compile(r"(electra\.)?embeddings\.position_ids")
    old_names = OLD_NAMES
    ties_by_default = True
    template = ENCODER
    reads_types = True

    def obstacles(self, config: ModelConfig) -> list[str]:
        """Settings that ELECTRA lacks."""
        if config.architecture == "replaced_token":
            config = dataclasses.replace(config, architecture="transformer")
        lines = encoder_obstacles(config) + post_norm_obstacles(config)
        lines += obstacles(config, mlp=["gelu"], pooler=[False], sentence_classes=[0])
        if config.embedding_width == config.width:
            lines.append(f"embedding_width is {config.width}, must be null (no projection) or another width")
        return lines

    def to_settings(self, config: ModelConfig) -> dict[str, Any]:
        """The entries of ElectraConfig."""
        return {**encoder_settings(config), "embedding_size": config.width_of_embedding}

    def _fields(self, settings: Settings, tensors: StoredTensors) -> dict[str, Any]:
        settings.one_of("hidden_act", {"gelu": None}, "gelu")
        fields = encoder_fields(settings, tensors, width=256, heads=4, mlp_width=1024)
        narrow = settings.integer("embedding_size", 128)
        return {**fields, "mlp": "gelu", "embedding_width": None if narrow == fields["width"] else narrow}

    def _trunk(self, config: ModelConfig, vocabulary_size: int) -> list[Counterpart]:
        table = embedding_counterparts(config, "electra.embeddings", vocabulary_size)
        if config.embedding_width is not None:
            projection = {"electra.embeddings_project": config.width}
            table += linear("embedding_projection", projection, config.embedding_width, bias=True)
        return table + layer_counterparts(config, "electra.encoder.layer")


class Electra(_Electra):
    """ElectraForPreTraining: the discriminator."""

    name = "electra"
    architectures: ClassVar = {"ElectraForPreTraining": "AutoModelForPreTraining", "ElectraModel": "AutoModel"}
    optional = re.compile(r"discriminator_predictions\..*")

    def obstacles(self, config: ModelConfig) -> list[str]:
        """Settings that the discriminator lacks."""
        return super().obstacles(config) + obstacles(config, head=["replaced_token"])

    def to_settings(self, config: ModelConfig) -> dict[str, Any]:
        """The entries of ElectraConfig."""
        # It has no vocabulary head to tie; true is what the generator beside it needs of a shared config.
        return {**super().to_settings(config), "tie_word_embeddings": True}

    def to_config(self, settings: Settings, tensors: StoredTensors) -> ModelConfig:
        """The discriminator of an ElectraConfig."""
        return ModelConfig(**self._fields(settings, tensors), head="replaced_token")

    def counterparts(self, config: ModelConfig, settings: Settings, vocabulary_size: int) -> list[Counterpart]:
        """All tensors of ElectraForPreTraining."""
        head, width = "discriminator_predictions", config.width
        return [
            *self._trunk(config, vocabulary_size),
            *linear("replaced_head.dense", {f"{head}.dense": width}, width, bias=True),
            *linear("replaced_head.output", {f"{head}.dense_prediction": 1}, width, bias=True),
        ]

    def part(self, model: nn.Module, config: ModelConfig) -> tuple[nn.Module, ModelConfig]:
        """The discriminator of a model of both."""
        return _part(model, "discriminator", config)


class ElectraGenerator(_Electra):
    """ElectraForMaskedLM: the generator."""

    name = "electra-generator"
    architectures: ClassVar = {"ElectraForMaskedLM": "AutoModelForMaskedLM"}
    tied: ClassVar = {"generator_lm_head.weight": "electra.embeddings.word_embeddings.weight"}

    def obstacles(self, config: ModelConfig) -> list[str]:
        """Settings that the generator lacks; that of a model of both has the head it needs."""
        lines = super().obstacles(config)
        return lines if config.architecture == "replaced_token" else lines + obstacles(config, head=["transform"])

    def to_config(self, settings: Settings, tensors: StoredTensors) -> ModelConfig:
        """The generator of an ElectraConfig."""
        return ModelConfig(
            **self._fields(settings, tensors),
            head="transform",
            head_bias=True,
            tied_embeddings=settings.flag("tie_word_embeddings", self.ties_by_default),
        )

    def counterparts(self, config: ModelConfig, settings: Settings, vocabulary_size: int) -> list[Counterpart]:
        """All tensors of ElectraForMaskedLM."""
        head = "generator_predictions"
        table = self._trunk(config, vocabulary_size)
        table += transform_counterparts(config, f"{head}.dense", f"{head}.LayerNorm")
        if config.tied_embeddings:
            return [*table, vector("head.bias", "generator_lm_head.bias", vocabulary_size)]
        width = config.width_of_embedding
        return [*table, *linear("head", {"generator_lm_head": vocabulary_size}, width, bias=True)]

    def part(self, model: nn.Module, config: ModelConfig) -> tuple[nn.Module, ModelConfig]:
        """The generator of a model of both."""
        return _part(model, "generator", config)


def _part(model: nn.Module, name: str, config: ModelConfig) -> tuple[nn.Module, ModelConfig]:
    if config.architecture != "replaced_token":
        return model, config
    part = model.get_submodule(name)
    assert isinstance(part.config, ModelConfig)
    return part, part.config
