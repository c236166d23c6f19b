"""RoBERTa (Liu et al. 2019) as transformers' RobertaForMaskedLM holds it.

There a token's place is counted over the tokens that are not padding, from the id of the padding token + 1 on: the rows
of the position embedding before that are never read. They are dropped, and written as zeros.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

from training.config import ModelConfig
from training.models.huggingface.bert import (
    OLD_NAMES,
    embedding_counterparts,
    encoder_fields,
    encoder_settings,
    layer_counterparts,
    post_norm_obstacles,
    transform_counterparts,
    word_head_counterparts,
)
from training.models.huggingface.counterparts import Counterpart
from training.models.huggingface.family import Family, encoder_obstacles, obstacles
from training.models.huggingface.settings import Settings
from training.models.huggingface.stored import StoredTensors
from training.models.huggingface.tokenizer import ENCODER, SpecialTokens

_PADDING = 1
"""Id of the padding token in the published vocabulary, and where nothing is known of it."""


class Roberta(Family):
    """RobertaForMaskedLM; a pooler in its files is one that was never trained, and is left out."""

    name = "roberta"
    kind = "encoder"
    architectures: ClassVar = {"RobertaForMaskedLM": "AutoModelForMaskedLM", "RobertaModel": "AutoModel"}
    prefix = "roberta."
    ignored = re.compile(r"(roberta\.)?(embeddings\.position_ids|pooler\.dense\.(weight|bias))")
    old_names = OLD_NAMES
    tied: ClassVar = {
        "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    }
    optional = re.compile(r"lm_head\..*")
    ties_by_default = True
    template = ENCODER
    reads_types = True

    def obstacles(self, config: ModelConfig) -> list[str]:
        """Settings that RoBERTa lacks."""
        return (
            encoder_obstacles(config)
            + post_norm_obstacles(config)
            + obstacles(
                config,
                mlp=["gelu"],
                head=["transform"],
                embedding_width=[None],
                token_types=[0, 1],
                pooler=[False],
                sentence_classes=[0],
            )
        )

    def to_settings(self, config: ModelConfig) -> dict[str, Any]:
        """The entries of RobertaConfig but for the positions, which depend on the padding token."""
        return encoder_settings(config)

    def token_settings(self, config: ModelConfig, special: SpecialTokens) -> dict[str, Any]:
        """The special tokens, and with them the rows of the position embedding."""
        padding = _PADDING if special.padding is None else special.padding
        return {
            **super().token_settings(config, special),
            "pad_token_id": padding,
            "max_position_embeddings": config.context_length + padding + 1,
        }

    def to_config(self, settings: Settings, tensors: StoredTensors) -> ModelConfig:
        """The model of a RobertaConfig."""
        settings.one_of("hidden_act", {"gelu": None}, "gelu")  # as the head has it
        fields = encoder_fields(settings, tensors)
        context_length = fields["context_length"] - _unused_positions(settings)
        if context_length < 1:
            raise settings.wrong("max_position_embeddings", fields["context_length"], "more than pad_token_id + 1")
        return ModelConfig(
            **{**fields, "context_length": context_length},
            mlp="gelu",
            head="transform",
            head_bias=True,
            tied_embeddings=settings.flag("tie_word_embeddings", self.ties_by_default),
        )

    def counterparts(self, config: ModelConfig, settings: Settings, vocabulary_size: int) -> list[Counterpart]:
        """All tensors of RobertaForMaskedLM."""
        unused = _unused_positions(settings)
        table = embedding_counterparts(config, "roberta.embeddings", vocabulary_size, unused)
        table += layer_counterparts(config, "roberta.encoder.layer")
        table += transform_counterparts(config, "lm_head.dense", "lm_head.layer_norm")
        return table + word_head_counterparts(config, "lm_head", vocabulary_size)


def _unused_positions(settings: Settings) -> int:
    """Rows of the position embedding for padding and before."""
    padding = settings.get("pad_token_id")
    padding = _PADDING if padding is None else padding
    if isinstance(padding, bool) or not isinstance(padding, int) or padding < 0:
        raise settings.wrong("pad_token_id", padding, "a whole number of at least 0")
    return padding + 1
