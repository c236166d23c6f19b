"""GPT-2 (Radford et al. 2019) as transformers' GPT2LMHeadModel holds it.

Its linear layers are Conv1D: weights stored (inputs, outputs). Every linear layer and every norm has a bias there: a
model without writes zeros, which is the same function.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

from training.config import ModelConfig
from training.models.huggingface.counterparts import Counterpart, linear, matrix, vector
from training.models.huggingface.family import Family, causal_obstacles, effective_window, layer_count, obstacles
from training.models.huggingface.settings import Settings
from training.models.huggingface.stored import StoredTensors

_ACTIVATIONS = {"gelu_tanh": "gelu_new", "gelu": "gelu", "relu": "relu", "relu2": "relu2"}
_ACTIVATION_OF = {
    **{theirs: ours for ours, theirs in _ACTIVATIONS.items()},
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
}


class GPT2(Family):
    """GPT2LMHeadModel."""

    name = "gpt2"
    architectures: ClassVar = {"GPT2LMHeadModel": "AutoModelForCausalLM"}
    prefix = "transformer."
    tied: ClassVar = {"lm_head.weight": "transformer.wte.weight"}
    # Causal masks that old versions stored.
    ignored = re.compile(r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias")
    ties_by_default = True

    def obstacles(self, config: ModelConfig) -> list[str]:
        """Settings that GPT-2 lacks."""
        lines = causal_obstacles(config) + obstacles(
            config, positions=["learned"], norm=["layernorm"], qk_norm=["none"], mlp=list(_ACTIVATIONS)
        )
        if config.key_value_heads != config.heads:
            lines.append(f"kv_heads is {config.key_value_heads}, must be {config.heads} (as many as heads)")
        if config.width_of_head * config.heads != config.width:
            lines.append(f"head_width is {config.width_of_head}, must be width / heads")
        if effective_window(config) is not None:
            lines.append(f"window is {config.window}, must be null")
        return lines

    def to_settings(self, config: ModelConfig) -> dict[str, Any]:
        """The entries of GPT2Config."""
        return {
            "n_positions": config.context_length,
            "n_embd": config.width,
            "n_layer": config.layers,
            "n_head": config.heads,
            "n_inner": config.hidden_width,
            "activation_function": _ACTIVATIONS[config.mlp],
            "resid_pdrop": config.dropout,
            "embd_pdrop": config.dropout,
            "attn_pdrop": config.attention_dropout,
            "layer_norm_epsilon": config.norm_epsilon,
        }

    def to_config(self, settings: Settings, tensors: StoredTensors) -> ModelConfig:
        """The trunk of a GPT2Config."""
        for key, value in {
            "scale_attn_weights": True,
            "scale_attn_by_inverse_layer_idx": False,
            "add_cross_attention": False,
        }.items():
            settings.one_of(key, {value: None}, value)
        width = settings.integer("n_embd", 768)
        inner = settings.integer("n_inner", 4 * width)
        dropout = settings.number("resid_pdrop", 0.1)
        if settings.number("embd_pdrop", 0.1) != dropout:
            raise settings.wrong("embd_pdrop", settings.number("embd_pdrop", 0.1), f"{dropout:g}, as resid_pdrop")
        return ModelConfig(
            layers=layer_count(settings, "n_layer", 12, tensors),
            heads=settings.integer("n_head", 12),
            width=width,
            context_length=settings.integer("n_positions", 1024),
            positions="learned",
            norm="layernorm",
            norm_epsilon=settings.number("layer_norm_epsilon", 1e-5),
            mlp=settings.one_of("activation_function", _ACTIVATION_OF, "gelu_new"),
            mlp_width=None if inner == 4 * width else inner,
            qk_norm="none",
            bias="all",
            tied_embeddings=settings.flag("tie_word_embeddings", self.ties_by_default),
            dropout=dropout,
            attention_dropout=settings.number("attn_pdrop", 0.1),
            initialization="gpt2",
        )

    def counterparts(self, config: ModelConfig, settings: Settings, vocabulary_size: int) -> list[Counterpart]:
        """All tensors of GPT2LMHeadModel."""
        width, hidden = config.width, config.hidden_width
        table = [
            matrix("embedding.weight", "transformer.wte.weight", vocabulary_size, width),
            matrix("position_embedding.weight", "transformer.wpe.weight", config.context_length, width),
        ]
        for layer in range(config.layers):
            ours, theirs = f"blocks.{layer}", f"transformer.h.{layer}"
            table += _norm(f"{ours}.attention_norm", f"{theirs}.ln_1", width)
            for name, module, rows, columns in (
                ("attention.qkv", "attn.c_attn", 3 * width, width),
                ("attention.output", "attn.c_proj", width, width),
                ("mlp.input", "mlp.c_fc", hidden, width),
                ("mlp.output", "mlp.c_proj", width, hidden),
            ):
                table += linear(f"{ours}.{name}", {f"{theirs}.{module}": rows}, columns, bias=True, transposed=True)
            table += _norm(f"{ours}.mlp_norm", f"{theirs}.ln_2", width)
        table += _norm("norm", "transformer.ln_f", width)
        if not config.tied_embeddings:
            table.append(matrix("head.weight", "lm_head.weight", vocabulary_size, width))
        return table


def _norm(ours: str, theirs: str, width: int) -> list[Counterpart]:
    return [vector(f"{ours}.{name}", f"{theirs}.{name}", width) for name in ("weight", "bias")]
