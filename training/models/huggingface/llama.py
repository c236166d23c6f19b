"""Llama (Touvron et al. 2023; Grattafiori et al. 2024) as transformers' LlamaForCausalLM holds it."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal

from training.config import ModelConfig
from training.models.huggingface import rope
from training.models.huggingface.counterparts import Counterpart, linear, matrix, vector
from training.models.huggingface.family import Family, causal_obstacles, effective_window, layer_count, obstacles
from training.models.huggingface.settings import Settings
from training.models.huggingface.stored import StoredTensors

_LONGEST_CONTEXT = 1 << 22
"""Tokens; the rotary tables of the trunk take a kilobyte for each."""


class Llama(Family):
    """LlamaForCausalLM.

    `attention_bias` there means queries, keys, values and the output: a model with biases on the first three alone
    writes zeros for the fourth, and is read back from them.
    """

    name = "llama"
    architectures: ClassVar = {"LlamaForCausalLM": "AutoModelForCausalLM"}
    prefix = "model."
    tied: ClassVar = {"lm_head.weight": "model.embed_tokens.weight"}
    # Frequencies that old versions stored.
    ignored = re.compile(r"(model\.)?layers\.\d+\.self_attn\.rotary_emb\.inv_freq")
    qk_norm: Literal["none", "gains"] = "none"
    """Whether queries and keys are normalised."""

    def obstacles(self, config: ModelConfig) -> list[str]:
        """Settings that Llama lacks."""
        lines = rotary_obstacles(config, self.qk_norm)
        if config.width % config.heads:
            lines.append(f"width is {config.width}, must be a multiple of heads ({config.heads})")
        if effective_window(config) is not None:
            lines.append(f"window is {config.window}, must be null")
        return lines

    def to_settings(self, config: ModelConfig) -> dict[str, Any]:
        """The entries of LlamaConfig."""
        return {**rotary_settings(config), "mlp_bias": config.bias == "all", "pretraining_tp": 1}

    def to_config(self, settings: Settings, tensors: StoredTensors) -> ModelConfig:
        """The trunk of a LlamaConfig."""
        heads = settings.integer("num_attention_heads", 32)
        width = settings.integer("hidden_size", 4096)
        return ModelConfig(
            **rotary_fields(
                settings,
                layer_count(settings, "num_hidden_layers", 32, tensors),
                kv_heads=settings.integer("num_key_value_heads", heads),
                head_width=settings.integer("head_dim", max(1, width // heads)),
                context_length=settings.integer("max_position_embeddings", 2048),
                mlp_width=settings.integer("intermediate_size", 11008),
            ),
            qk_norm=self.qk_norm,
            bias=self.bias(settings, tensors),
            tied_embeddings=settings.flag("tie_word_embeddings", self.ties_by_default),
        )

    def bias(self, settings: Settings, tensors: StoredTensors) -> Literal["none", "qkv", "all"]:
        """Which biases the trunk needs; `all` has some that are zero where only attention has any."""
        if settings.flag("mlp_bias", False):
            return "all"
        if not settings.flag("attention_bias", False):
            return "none"
        outputs = [name for name in tensors if name.endswith("self_attn.o_proj.bias")]
        return "all" if any(tensors.read(name).any() for name in outputs) else "qkv"

    def counterparts(self, config: ModelConfig, settings: Settings, vocabulary_size: int) -> list[Counterpart]:
        """All tensors of LlamaForCausalLM."""
        biases = settings.flag("attention_bias", False), settings.flag("mlp_bias", False)
        table = [matrix("embedding.weight", "model.embed_tokens.weight", vocabulary_size, config.width)]
        for layer in range(config.layers):
            table += block_counterparts(config, f"blocks.{layer}", f"model.layers.{layer}", *biases)
        table.append(vector("norm.weight", "model.norm.weight", config.width))
        if not config.tied_embeddings:
            table.append(matrix("head.weight", "lm_head.weight", vocabulary_size, config.width))
        return table


def rotary_obstacles(config: ModelConfig, qk_norm: str) -> list[str]:
    """Settings that neither Llama nor its kin have."""
    return causal_obstacles(config) + obstacles(
        config, positions=["rotary"], norm=["rmsnorm"], qk_norm=[qk_norm], mlp=["swiglu"]
    )


def rotary_settings(config: ModelConfig) -> dict[str, Any]:
    """The entries that the configs of Llama and its kin share."""
    return {
        "hidden_size": config.width,
        "intermediate_size": config.hidden_width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.key_value_heads,
        "head_dim": config.width_of_head,
        "hidden_act": "silu",
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.norm_epsilon,
        **rope.to_settings(config),
        "attention_bias": config.bias != "none",
        "attention_dropout": config.attention_dropout,
    }


def rotary_fields(
    settings: Settings, layers: int, kv_heads: int, head_width: int, context_length: int, mlp_width: int
) -> dict[str, Any]:
    """The fields of ModelConfig that Llama and its kin share; what is the default anyway is left open."""
    settings.one_of("hidden_act", {"silu": None, "swish": None}, "silu")
    heads, width = settings.integer("num_attention_heads", 32), settings.integer("hidden_size", 4096)
    if context_length > _LONGEST_CONTEXT:
        raise settings.wrong("max_position_embeddings", context_length, f"at most {_LONGEST_CONTEXT}")
    rope_theta, rope_scaling = rope.to_config(settings, context_length)
    fields: dict[str, Any] = {
        "layers": layers,
        "heads": heads,
        "width": width,
        "kv_heads": None if kv_heads == heads else kv_heads,
        "head_width": None if head_width * heads == width else head_width,
        "context_length": context_length,
        "rope_theta": rope_theta,
        "rope_scaling": rope_scaling,
        "norm_epsilon": settings.number("rms_norm_eps", 1e-6),
        "mlp": "swiglu",
        "attention_dropout": settings.number("attention_dropout", 0.0),
        "initialization": "gpt2",
    }
    usual = ModelConfig(width=width, heads=1, mlp="swiglu", positions="none").hidden_width
    return {**fields, "mlp_width": None if mlp_width == usual else mlp_width}


def block_counterparts(
    config: ModelConfig, ours: str, theirs: str, attention_bias: bool, mlp_bias: bool
) -> list[Counterpart]:
    """The tensors of one block of Llama or its kin."""
    width, hidden, head_width = config.width, config.hidden_width, config.width_of_head
    queries, keys = config.heads * head_width, config.key_value_heads * head_width
    attention, mlp = f"{theirs}.self_attn", f"{theirs}.mlp"
    projections = {f"{attention}.q_proj": queries, f"{attention}.k_proj": keys, f"{attention}.v_proj": keys}
    table = [
        vector(f"{ours}.attention_norm.weight", f"{theirs}.input_layernorm.weight", width),
        *linear(f"{ours}.attention.qkv", projections, width, attention_bias),
        *linear(f"{ours}.attention.output", {f"{attention}.o_proj": width}, queries, attention_bias),
        vector(f"{ours}.mlp_norm.weight", f"{theirs}.post_attention_layernorm.weight", width),
        *linear(f"{ours}.mlp.input", {f"{mlp}.gate_proj": hidden, f"{mlp}.up_proj": hidden}, width, mlp_bias),
        *linear(f"{ours}.mlp.output", {f"{mlp}.down_proj": width}, hidden, mlp_bias),
    ]
    if config.qk_norm == "gains":
        for side, name in (("query", "q"), ("key", "k")):
            table.append(vector(f"{ours}.attention.{side}_norm.weight", f"{attention}.{name}_norm.weight", head_width))
    return table
