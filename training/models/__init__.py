"""The models, and which of them a config describes."""

from __future__ import annotations

import importlib
from typing import Any

from training.config import ModelConfig

Model = Any
"""Any of the classes below; what they have in common stands in the docstring of `build`."""

_CLASSES = {
    "transformer": ("transformer", "Transformer"),
    "replaced_token": ("replaced_token", "ReplacedTokenModel"),
    "two_stream": ("two_stream", "TwoStream"),
    "encoder_decoder": ("encoder_decoder", "EncoderDecoder"),
}


def build(config: ModelConfig, vocabulary_size: int) -> Model:
    """The model of a config, its weights drawn from torch's global CPU generator.

    All have config, vocabulary_size, blocks (in the order of the forward pass), bigrams (or None), set_recompute,
    reset_parameters, reset_buffers, parameters_count and flops_per_token, as `transformer.Transformer` has them.
    """
    module, name = _CLASSES[config.architecture]
    # By name, so that a run imports what it trains alone.
    return getattr(importlib.import_module(f"training.models.{module}"), name)(config, vocabulary_size)
