"""BERT (Devlin et al. 2019) as transformers' BertForPreTraining and BertForMaskedLM hold it.

A model with a pooler is written as BertForPreTraining, one without as BertForMaskedLM; a pooler without a sentence head
gets one of zeros, which says nothing. Files may be those of either class or of the bare BertModel, and may hold more
than the class has: the pooler and the sentence head are there if their tensors are, and a missing word head is drawn
anew.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

from training.config import ModelConfig
from training.models.huggingface.counterparts import Counterpart, linear, matrix, norm, vector
from training.models.huggingface.family import (
    Family,
    effective_window,
    encoder_obstacles,
    holds,
    layer_count,
    obstacles,
)
from training.models.huggingface.settings import Settings
from training.models.huggingface.stored import StoredTensors
from training.models.huggingface.tokenizer import ENCODER

ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_new"}
"""Ours and theirs; the head's transform has the same."""
ACTIVATION_OF = {
    **{theirs: ours for ours, theirs in ACTIVATIONS.items()},
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
}
OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
"""Those of the first published files, which came from TensorFlow."""


class Bert(Family):
    """BertForPreTraining and BertForMaskedLM."""

    name = "bert"
    kind = "encoder"
    architectures: ClassVar = {
        "BertForPreTraining": "AutoModelForPreTraining",
        "BertForMaskedLM": "AutoModelForMaskedLM",
        "BertModel": "AutoModel",
    }
    prefix = "bert."
    ignored = re.compile(r"(bert\.)?embeddings\.position_ids")
    old_names = OLD_NAMES
    tied: ClassVar = {
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }
    optional = re.compile(r"cls\.predictions\..*")
    ties_by_default = True
    template = ENCODER
    reads_types = True

    def obstacles(self, config: ModelConfig) -> list[str]:
        """Settings that BERT lacks."""
        return (
            encoder_obstacles(config)
            + post_norm_obstacles(config)
            + obstacles(config, mlp=list(ACTIVATIONS), head=["transform"], embedding_width=[None])
            + sentence_obstacles(config)
        )

    def architecture(self, config: ModelConfig) -> str:
        """BertForPreTraining with a pooler, else BertForMaskedLM."""
        return "BertForPreTraining" if config.pooler else "BertForMaskedLM"

    def to_settings(self, config: ModelConfig) -> dict[str, Any]:
        """The entries of BertConfig."""
        return encoder_settings(config)

    def to_config(self, settings: Settings, tensors: StoredTensors) -> ModelConfig:
        """The model of a BertConfig."""
        return ModelConfig(
            **encoder_fields(settings, tensors),
            mlp=settings.one_of("hidden_act", ACTIVATION_OF, "gelu"),
            head="transform",
            head_bias=True,
            tied_embeddings=settings.flag("tie_word_embeddings", self.ties_by_default),
            pooler=holds(tensors, "pooler.dense.weight"),
            sentence_classes=2 if holds(tensors, "cls.seq_relationship.weight") else 0,
        )

    def counterparts(self, config: ModelConfig, settings: Settings, vocabulary_size: int) -> list[Counterpart]:
        """All tensors of the class."""
        table = embedding_counterparts(config, "bert.embeddings", vocabulary_size)
        table += layer_counterparts(config, "bert.encoder.layer")
        head = "cls.predictions"
        table += transform_counterparts(config, f"{head}.transform.dense", f"{head}.transform.LayerNorm")
        table += word_head_counterparts(config, head, vocabulary_size)
        if config.pooler:
            table += linear("pooler", {"bert.pooler.dense": config.width}, config.width, bias=True)
            table += sentence_counterparts(config, "cls.seq_relationship")
        return table


def post_norm_obstacles(config: ModelConfig) -> list[str]:
    """Settings that neither BERT nor its kin of before 2024 have."""
    lines = obstacles(config, positions=["learned"], norm_position=["post"], first_norm=[True])
    if effective_window(config) is not None:
        lines.append(f"window is {config.window}, must be null")
    return lines


def sentence_obstacles(config: ModelConfig) -> list[str]:
    """What the heads of whole sequences cannot be."""
    return obstacles(config, sentence_classes=[0, 2])


def encoder_settings(config: ModelConfig) -> dict[str, Any]:
    """The entries that the configs of BERT and its kin share."""
    return {
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.hidden_width,
        "hidden_act": ACTIVATIONS[config.mlp],
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "max_position_embeddings": config.context_length,
        "type_vocab_size": max(1, config.token_types),
        "layer_norm_eps": config.norm_epsilon,
        "position_embedding_type": "absolute",
        "use_cache": False,
    }


def encoder_fields(
    settings: Settings,
    tensors: StoredTensors,
    width: int = 768,
    layers: int = 12,
    heads: int = 12,
    mlp_width: int = 3072,
    dropout: float = 0.1,
) -> dict[str, Any]:
    """The fields of ModelConfig that BERT and its kin share, from a config with these defaults."""
    for key, value in {"is_decoder": False, "add_cross_attention": False}.items():
        settings.one_of(key, {value: None}, value)
    settings.one_of("position_embedding_type", {"absolute": None}, "absolute")
    width = settings.integer("hidden_size", width)
    inner = settings.integer("intermediate_size", mlp_width)
    return {
        "layers": layer_count(settings, "num_hidden_layers", layers, tensors),
        "heads": settings.integer("num_attention_heads", heads),
        "width": width,
        "mlp_width": None if inner == 4 * width else inner,
        "context_length": settings.integer("max_position_embeddings", 512),
        "token_types": settings.integer("type_vocab_size", 2),
        "attention": "bidirectional",
        "positions": "learned",
        "norm": "layernorm",
        "norm_position": "post",
        "norm_epsilon": settings.number("layer_norm_eps", 1e-12),
        "embedding_norm": True,
        "qk_norm": "none",
        "bias": "all",
        "dropout": settings.number("hidden_dropout_prob", dropout),
        "attention_dropout": settings.number("attention_probs_dropout_prob", dropout),
        "initialization": "bert",
    }


def embedding_counterparts(
    config: ModelConfig, theirs: str, vocabulary_size: int, unused_positions: int = 0
) -> list[Counterpart]:
    """The embeddings of tokens, places and types, and their norm."""
    width, places = config.width_of_embedding, config.context_length
    types = max(1, config.token_types)
    return [
        matrix("embedding.weight", f"{theirs}.word_embeddings.weight", vocabulary_size, width),
        Counterpart(
            "position_embedding.weight",
            (f"{theirs}.position_embeddings.weight",),
            (places,),
            width,
            unused=unused_positions,
        ),
        # One row of zeros is written where ours has none.
        Counterpart(
            "type_embedding.weight",
            (f"{theirs}.token_type_embeddings.weight",),
            (types,),
            width,
            optional=not config.token_types,
        ),
        *norm("embedding_norm", f"{theirs}.LayerNorm", width),
    ]


def layer_counterparts(config: ModelConfig, theirs: str) -> list[Counterpart]:
    """The tensors of all layers."""
    width, hidden = config.width, config.hidden_width
    table: list[Counterpart] = []
    for layer in range(config.layers):
        ours, at = f"blocks.{layer}", f"{theirs}.{layer}"
        projections = {f"{at}.attention.self.{name}": width for name in ("query", "key", "value")}
        table += linear(f"{ours}.attention.qkv", projections, width, bias=True)
        table += linear(f"{ours}.attention.output", {f"{at}.attention.output.dense": width}, width, bias=True)
        table += norm(f"{ours}.attention_norm", f"{at}.attention.output.LayerNorm", width)
        table += linear(f"{ours}.mlp.input", {f"{at}.intermediate.dense": hidden}, width, bias=True)
        table += linear(f"{ours}.mlp.output", {f"{at}.output.dense": width}, hidden, bias=True)
        table += norm(f"{ours}.mlp_norm", f"{at}.output.LayerNorm", width)
    return table


def transform_counterparts(config: ModelConfig, dense: str, layer_norm: str) -> list[Counterpart]:
    """What stands before the vocabulary matrix."""
    width = config.width_of_embedding
    return [
        *linear("transform.dense", {dense: width}, config.width, bias=True),
        *norm("transform.norm", layer_norm, width),
    ]


def word_head_counterparts(config: ModelConfig, theirs: str, vocabulary_size: int) -> list[Counterpart]:
    """The bias of the vocabulary head and, where that is not tied, its matrix.

    Untied, transformers adds the decoder's bias and leaves its own unused: it is written as zeros.
    """
    if config.tied_embeddings:
        return [vector("head.bias", f"{theirs}.bias", vocabulary_size)]
    width = config.width_of_embedding
    decoder = linear("head", {f"{theirs}.decoder": vocabulary_size}, width, bias=True)
    return [*decoder, Counterpart("unused.bias", (f"{theirs}.bias",), (vocabulary_size,), optional=True)]


def sentence_counterparts(config: ModelConfig, theirs: str) -> list[Counterpart]:
    """The head over the pooler; zeros where ours has none."""
    lacks = not config.sentence_classes
    return [
        Counterpart("sentence_head.weight", (f"{theirs}.weight",), (2,), config.width, optional=lacks),
        Counterpart("sentence_head.bias", (f"{theirs}.bias",), (2,), optional=lacks),
    ]
