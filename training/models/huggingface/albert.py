"""ALBERT (Lan et al. 2020) as transformers' AlbertForPreTraining and AlbertForMaskedLM hold it.

As with BERT, a model with a pooler is written as AlbertForPreTraining, one without as AlbertForMaskedLM; what its files
lack is left out (the pooler and the sentence head) or drawn anew (the word head).
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

from training.config import ModelConfig
from training.models.huggingface.bert import (
    ACTIVATION_OF,
    ACTIVATIONS,
    OLD_NAMES,
    embedding_counterparts,
    encoder_fields,
    encoder_settings,
    post_norm_obstacles,
    sentence_counterparts,
    sentence_obstacles,
    transform_counterparts,
    word_head_counterparts,
)
from training.models.huggingface.counterparts import Counterpart, linear, norm
from training.models.huggingface.family import Family, encoder_obstacles, holds, obstacles
from training.models.huggingface.settings import Settings
from training.models.huggingface.stored import StoredTensors
from training.models.huggingface.tokenizer import ENCODER


class Albert(Family):
    """AlbertForPreTraining and AlbertForMaskedLM; their embeddings are always projected, even to their own width."""

    name = "albert"
    kind = "encoder"
    architectures: ClassVar = {
        "AlbertForPreTraining": "AutoModelForPreTraining",
        "AlbertForMaskedLM": "AutoModelForMaskedLM",
        "AlbertModel": "AutoModel",
    }
    prefix = "albert."
    ignored = re.compile(r"(albert\.)?embeddings\.position_ids")
    old_names = OLD_NAMES
    tied: ClassVar = {
        "predictions.decoder.weight": "albert.embeddings.word_embeddings.weight",
        "predictions.decoder.bias": "predictions.bias",
    }
    optional = re.compile(r"predictions\..*")
    ties_by_default = True
    template = ENCODER
    reads_types = True

    def obstacles(self, config: ModelConfig) -> list[str]:
        """Settings that ALBERT lacks."""
        lines = encoder_obstacles(config, shared_layers=True) + post_norm_obstacles(config)
        lines += obstacles(config, mlp=list(ACTIVATIONS), head=["transform"]) + sentence_obstacles(config)
        if config.embedding_width is None:
            lines.append(f"embedding_width is null, must be a number ({config.width} for that of the stream)")
        return lines

    def architecture(self, config: ModelConfig) -> str:
        """AlbertForPreTraining with a pooler, else AlbertForMaskedLM."""
        return "AlbertForPreTraining" if config.pooler else "AlbertForMaskedLM"

    def to_settings(self, config: ModelConfig) -> dict[str, Any]:
        """The entries of AlbertConfig."""
        return {
            **encoder_settings(config),
            "embedding_size": config.width_of_embedding,
            "num_hidden_groups": config.blocks,
            "inner_group_num": 1,
            "classifier_dropout_prob": config.dropout,
        }

    def to_config(self, settings: Settings, tensors: StoredTensors) -> ModelConfig:
        """The model of an AlbertConfig."""
        settings.one_of("inner_group_num", {1: None}, 1)
        fields = encoder_fields(settings, tensors, width=4096, heads=64, mlp_width=16_384, dropout=0.0)
        groups = settings.integer("num_hidden_groups", 1)
        return ModelConfig(
            **fields,
            embedding_width=settings.integer("embedding_size", 128),
            layer_groups=None if groups == fields["layers"] else groups,
            mlp=settings.one_of("hidden_act", ACTIVATION_OF, "gelu_new"),
            head="transform",
            head_bias=True,
            tied_embeddings=settings.flag("tie_word_embeddings", self.ties_by_default),
            pooler=holds(tensors, "pooler.weight"),
            sentence_classes=2 if holds(tensors, "sop_classifier.classifier.weight") else 0,
        )

    def counterparts(self, config: ModelConfig, settings: Settings, vocabulary_size: int) -> list[Counterpart]:
        """All tensors of the class."""
        encoder = "albert.encoder"
        table = embedding_counterparts(config, "albert.embeddings", vocabulary_size)
        projection = {f"{encoder}.embedding_hidden_mapping_in": config.width}
        table += linear("embedding_projection", projection, config.width_of_embedding, bias=True)
        for group in range(config.blocks):
            table += _group(config, f"blocks.{group}", f"{encoder}.albert_layer_groups.{group}.albert_layers.0")
        table += transform_counterparts(config, "predictions.dense", "predictions.LayerNorm")
        table += word_head_counterparts(config, "predictions", vocabulary_size)
        if config.pooler:
            table += linear("pooler", {"albert.pooler": config.width}, config.width, bias=True)
            table += sentence_counterparts(config, "sop_classifier.classifier")
        return table


def _group(config: ModelConfig, ours: str, theirs: str) -> list[Counterpart]:
    width, hidden = config.width, config.hidden_width
    projections = {f"{theirs}.attention.{name}": width for name in ("query", "key", "value")}
    return [
        *linear(f"{ours}.attention.qkv", projections, width, bias=True),
        *linear(f"{ours}.attention.output", {f"{theirs}.attention.dense": width}, width, bias=True),
        *norm(f"{ours}.attention_norm", f"{theirs}.attention.LayerNorm", width),
        *linear(f"{ours}.mlp.input", {f"{theirs}.ffn": hidden}, width, bias=True),
        *linear(f"{ours}.mlp.output", {f"{theirs}.ffn_output": width}, hidden, bias=True),
        *norm(f"{ours}.mlp_norm", f"{theirs}.full_layer_layer_norm", width),
    ]
