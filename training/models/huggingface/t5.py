"""T5 (Raffel et al. 2020) as transformers' T5ForConditionalGeneration holds it.

With tied embeddings (T5 1.0) it multiplies what the head reads by d_model ** -0.5, without them (1.1) it does not:
transformers 5 keeps that in `scale_decoder_outputs`, older versions read it off `tie_word_embeddings`.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any, ClassVar

from training.config import ModelConfig
from training.models.huggingface.counterparts import Counterpart, linear, matrix, vector
from training.models.huggingface.family import Family, layer_count, obstacles
from training.models.huggingface.settings import Settings
from training.models.huggingface.stored import StoredTensors
from training.models.huggingface.tokenizer import SpecialTokens, Template

# "gated-gelu" stands for the approximation there.
_ACTIVATIONS = {
    "relu": "relu",
    "relu2": "relu2",
    "gelu": "gelu",
    "gelu_tanh": "gelu_new",
    "geglu_tanh": "gated-gelu",
    "swiglu": "gated-silu",
}
_ACTIVATION_OF = {**{theirs: ours for ours, theirs in _ACTIVATIONS.items()}, "gated-gelu_new": "geglu_tanh"}


class T5(Family):
    """T5ForConditionalGeneration."""

    name = "t5"
    architectures: ClassVar = {"T5ForConditionalGeneration": "AutoModelForSeq2SeqLM"}
    kind = "encoder_decoder"
    prefix = ""
    # Copies of the embedding, which is always one, and a table that the first published files have and nothing reads.
    ignored = re.compile(
        r"(encoder|decoder)\.embed_tokens\.weight"
        r"|decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight"
    )
    tied: ClassVar = {"lm_head.weight": "shared.weight"}
    ties_by_default = True
    template = Template(("A", "end"), ("A", "end", "B", "end"))

    def obstacles(self, config: ModelConfig) -> list[str]:
        """Settings that T5 lacks; all others of an encoder-decoder it has."""
        lines = obstacles(config, architecture=["encoder_decoder"], mlp=list(_ACTIVATIONS))
        if config.attention_dropout != config.dropout:
            lines.append(f"attention_dropout is {config.attention_dropout:g}, must be {config.dropout:g}, as dropout")
        return lines

    def to_settings(self, config: ModelConfig) -> dict[str, Any]:
        """The entries of T5Config."""
        return {
            "is_encoder_decoder": True,
            "n_positions": config.context_length,
            "d_model": config.width,
            "d_kv": config.width_of_head,
            "d_ff": config.hidden_width,
            "num_layers": config.layers,
            "num_decoder_layers": config.layers if config.decoder_layers is None else config.decoder_layers,
            "num_heads": config.heads,
            "relative_attention_num_buckets": config.relative_buckets,
            "relative_attention_max_distance": config.relative_distance,
            "dropout_rate": config.dropout,
            "layer_norm_epsilon": config.norm_epsilon,
            "feed_forward_proj": _ACTIVATIONS[config.mlp],
            "scale_decoder_outputs": config.tied_embeddings,
        }

    def token_settings(self, config: ModelConfig, special: SpecialTokens) -> dict[str, Any]:
        """The end-of-text id is T5's </s>; what pads begins the decoder's text, too."""
        return {
            "eos_token_id": special.end,
            "pad_token_id": special.padding,
            "decoder_start_token_id": special.padding,
        }

    def to_config(self, settings: Settings, tensors: StoredTensors) -> ModelConfig:
        """The model of a T5Config."""
        width, heads = settings.integer("d_model", 512), settings.integer("num_heads", 8)
        head_width = settings.integer("d_kv", 64)
        layers = layer_count(settings, "num_layers", 6, tensors)
        decoder_layers = layer_count(settings, "num_decoder_layers", layers, tensors)
        dropout = settings.number("dropout_rate", 0.1)
        scaled = settings.flag("scale_decoder_outputs", settings.flag("tie_word_embeddings", self.ties_by_default))
        if not scaled and "lm_head.weight" not in tensors:
            raise ValueError(
                "scale_decoder_outputs: false (or tie_word_embeddings: false) needs a head of its own, but the files "
                "hold no lm_head.weight"
            )
        config = ModelConfig(
            architecture="encoder_decoder",
            layers=layers,
            decoder_layers=None if decoder_layers == layers else decoder_layers,
            heads=heads,
            width=width,
            head_width=None if head_width * heads == width else head_width,
            context_length=settings.integer("n_positions", 512),
            attention="bidirectional",
            positions="relative",
            relative_buckets=settings.integer("relative_attention_num_buckets", 32),
            relative_distance=settings.integer("relative_attention_max_distance", 128),
            norm_epsilon=settings.number("layer_norm_epsilon", 1e-6),
            mlp=settings.one_of("feed_forward_proj", _ACTIVATION_OF, "relu"),
            mlp_width=settings.integer("d_ff", 2048),
            qk_norm="none",
            tied_embeddings=scaled,
            dropout=dropout,
            attention_dropout=dropout,
            initialization="t5",
        )
        usual = dataclasses.replace(config, mlp_width=None)
        return usual if usual.hidden_width == config.mlp_width else config

    def counterparts(self, config: ModelConfig, settings: Settings, vocabulary_size: int) -> list[Counterpart]:
        """All tensors of T5ForConditionalGeneration."""
        width = config.width
        table = [matrix("embedding.weight", "shared.weight", vocabulary_size, width)]
        decoder_layers = config.layers if config.decoder_layers is None else config.decoder_layers
        first = 0
        for stack, layers in (("encoder", config.layers), ("decoder", decoder_layers)):
            table.append(
                matrix(
                    f"{stack}_positions.weight",
                    f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
                    config.relative_buckets,
                    config.heads,
                )
            )
            for layer in range(layers):
                table += _block(config, f"blocks.{first + layer}", f"{stack}.block.{layer}.layer", stack == "decoder")
            first += layers
        table.append(vector("encoder_norm.weight", "encoder.final_layer_norm.weight", width))
        table.append(vector("norm.weight", "decoder.final_layer_norm.weight", width))
        if not config.tied_embeddings:
            table.append(matrix("head.weight", "lm_head.weight", vocabulary_size, width))
        return table


def _block(config: ModelConfig, ours: str, theirs: str, decoder: bool) -> list[Counterpart]:
    width, hidden = config.width, config.hidden_width
    inner = config.heads * config.width_of_head
    attention, crossing, feeding = f"{theirs}.0.SelfAttention", f"{theirs}.1.EncDecAttention", f"{theirs}.{1 + decoder}"
    table = [vector(f"{ours}.attention_norm.weight", f"{theirs}.0.layer_norm.weight", width)]
    table += linear(f"{ours}.attention.qkv", {f"{attention}.{name}": inner for name in "qkv"}, width, bias=False)
    table += linear(f"{ours}.attention.output", {f"{attention}.o": width}, inner, bias=False)
    if decoder:
        pair = {f"{crossing}.{name}": inner for name in "kv"}
        table.append(vector(f"{ours}.cross_norm.weight", f"{theirs}.1.layer_norm.weight", width))
        table += linear(f"{ours}.cross_attention.query", {f"{crossing}.q": inner}, width, bias=False)
        table += linear(f"{ours}.cross_attention.key_value", pair, width, bias=False)
        table += linear(f"{ours}.cross_attention.output", {f"{crossing}.o": width}, inner, bias=False)
    dense = f"{feeding}.DenseReluDense"
    read = {f"{dense}.{name}": hidden for name in (("wi_0", "wi_1") if config.gated else ("wi",))}
    table.append(vector(f"{ours}.mlp_norm.weight", f"{feeding}.layer_norm.weight", width))
    table += linear(f"{ours}.mlp.input", read, width, bias=False)
    table += linear(f"{ours}.mlp.output", {f"{dense}.wo": width}, hidden, bias=False)
    return table
