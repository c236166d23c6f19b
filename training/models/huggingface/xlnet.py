"""XLNet (Yang et al. 2019) as transformers' XLNetLMHeadModel holds it.

Its attention has matrices and biases of three dimensions, with one for the heads. It has neither biases in the linear
layers of attention nor a longest input; `n_positions`, which it does not know, keeps the context length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from training.config import ModelConfig
from training.models.huggingface.counterparts import Counterpart, linear, matrix, norm, vector
from training.models.huggingface.family import Family, layer_count, obstacles
from training.models.huggingface.settings import Settings
from training.models.huggingface.stored import StoredTensors
from training.models.huggingface.tokenizer import SpecialTokens

_ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_new", "relu": "relu"}
_ACTIVATION_OF = {theirs: ours for ours, theirs in _ACTIVATIONS.items()}


@dataclass(frozen=True)
class _Shaped(Counterpart):
    """Tensors that have more dimensions there than here."""

    their_shape: tuple[int, ...] = ()
    """Of each of them; where `transposed`, the rows here are its last dimensions."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each of theirs by name."""
        return dict.fromkeys(self.theirs, self.their_shape)

    def split(self, ours: Tensor) -> dict[str, Tensor]:
        """Their tensors."""
        return {name: part.reshape(self.their_shape) for name, part in super().split(ours).items()}

    def join(self, theirs: Sequence[Tensor]) -> Tensor:
        """Our parameter from their tensors."""
        if self.columns is None:
            return super().join([part.flatten() for part in theirs])
        # Stored as (columns, rows) where transposed: the first dimension is the one that is not split by heads.
        lead = self.columns if self.transposed else self.rows[0]
        return super().join([part.reshape(lead, math.prod(self.their_shape) // lead) for part in theirs])


class XLNet(Family):
    """XLNetLMHeadModel. It has one dropout; attention here has its own, which is not written."""

    name = "xlnet"
    architectures: ClassVar[dict[str, str]] = {"XLNetLMHeadModel": "AutoModelForCausalLM"}
    prefix = "transformer."
    tied: ClassVar[dict[str, str]] = {"lm_loss.weight": "transformer.word_embedding.weight"}
    ties_by_default = True
    reads_types = True

    def obstacles(self, config: ModelConfig) -> list[str]:
        """Settings that XLNet lacks."""
        lines = obstacles(config, architecture=["two_stream"])
        if lines:
            return lines
        lines = obstacles(config, norm=["layernorm"], mlp=list(_ACTIVATIONS), token_types=[2])
        if config.width_of_head * config.heads != config.width:
            lines.append(f"head_width is {config.width_of_head}, must be width / heads")
        return lines

    def to_settings(self, config: ModelConfig) -> dict[str, Any]:
        """The entries of XLNetConfig; memory is only kept by those who ask for it."""
        return {
            "d_model": config.width,
            "n_layer": config.layers,
            "n_head": config.heads,
            "d_head": config.width_of_head,
            "d_inner": config.hidden_width,
            "ff_activation": _ACTIVATIONS[config.mlp],
            "layer_norm_eps": config.norm_epsilon,
            "dropout": config.dropout,
            "attn_type": "bi",
            "bi_data": False,
            "clamp_len": -1,
            "same_length": False,
            "untie_r": True,
            "mem_len": None,
            "reuse_len": None,
            "n_positions": config.context_length,
        }

    def token_settings(self, config: ModelConfig, special: SpecialTokens) -> dict[str, Any]:
        """A text is between two end-of-text tokens; nothing else stands around it."""
        return {"bos_token_id": special.begin, "eos_token_id": special.end, "pad_token_id": special.own_padding}

    def to_config(self, settings: Settings, tensors: StoredTensors) -> ModelConfig:
        """The model of an XLNetConfig; where the longest input is not known it is that of the published ones, 512."""
        settings.one_of("attn_type", {"bi": None}, "bi")
        settings.one_of("clamp_len", {-1: None, 0: None}, -1)
        for key, value in {"bi_data": False, "same_length": False, "untie_r": True}.items():
            settings.one_of(key, {value: None}, value)
        width, heads = settings.integer("d_model", 1024), settings.integer("n_head", 16)
        if settings.integer("d_head", max(1, width // heads)) * heads != width:
            raise settings.wrong("d_head", settings.integer("d_head", 1), "d_model / n_head")
        inner = settings.integer("d_inner", 4096)
        dropout = settings.number("dropout", 0.1)
        return ModelConfig(
            architecture="two_stream",
            layers=layer_count(settings, "n_layer", 24, tensors),
            heads=heads,
            width=width,
            context_length=settings.integer("n_positions", 512),
            attention="bidirectional",
            positions="relative",
            token_types=2,
            norm="layernorm",
            norm_position="post",
            norm_epsilon=settings.number("layer_norm_eps", 1e-12),
            mlp=settings.one_of("ff_activation", _ACTIVATION_OF, "gelu"),
            mlp_width=None if inner == 4 * width else inner,
            qk_norm="none",
            bias="all",
            head_bias=True,
            tied_embeddings=settings.flag("tie_word_embeddings", self.ties_by_default),
            dropout=dropout,
            attention_dropout=dropout,
            initialization="bert",
        )

    def counterparts(self, config: ModelConfig, settings: Settings, vocabulary_size: int) -> list[Counterpart]:
        """All tensors of XLNetLMHeadModel."""
        width = config.width
        table: list[Counterpart] = [
            matrix("embedding.weight", "transformer.word_embedding.weight", vocabulary_size, width),
            _Shaped("mask_embedding", ("transformer.mask_emb",), (width,), their_shape=(1, 1, width)),
        ]
        for layer in range(config.layers):
            table += _block(config, f"blocks.{layer}", f"transformer.layer.{layer}")
        if not config.tied_embeddings:
            table.append(matrix("head.weight", "lm_loss.weight", vocabulary_size, width))
        table.append(vector("head.bias", "lm_loss.bias", vocabulary_size))
        return table


def _block(config: ModelConfig, ours: str, theirs: str) -> list[Counterpart]:
    """The tensors of one layer."""
    width, hidden, heads, head_width = config.width, config.hidden_width, config.heads, config.width_of_head
    attention, there = f"{ours}.attention", f"{theirs}.rel_attn"
    by_head = (width, heads, head_width)
    table: list[Counterpart] = [
        _Shaped(
            f"{attention}.{name}.weight",
            tuple(f"{there}.{part}" for part in parts),
            (width,) * len(parts),
            width,
            transposed=transposed,
            their_shape=by_head,
        )
        for name, parts, transposed in (
            ("query", "q", True),
            ("key_value", "kv", True),
            ("relative", "r", True),
            ("output", "o", False),
        )
    ]
    table += [
        _Shaped(f"{attention}.{name}_bias", (f"{there}.{bias}",), (width,), their_shape=(heads, head_width))
        for name, bias in (("content", "r_w_bias"), ("position", "r_r_bias"), ("segment", "r_s_bias"))
    ]
    table.append(
        _Shaped(f"{attention}.segment_embedding", (f"{there}.seg_embed",), (2,), width, their_shape=(2, *by_head[1:]))
    )
    table += norm(f"{ours}.attention_norm", f"{there}.layer_norm", width)
    table += linear(f"{ours}.mlp.input", {f"{theirs}.ff.layer_1": hidden}, width, bias=True)
    table += linear(f"{ours}.mlp.output", {f"{theirs}.ff.layer_2": width}, hidden, bias=True)
    table += norm(f"{ours}.mlp_norm", f"{theirs}.ff.layer_norm", width)
    return table
