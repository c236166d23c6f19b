"""ModernBERT (Warner et al. 2024) as transformers' ModernBertForMaskedLM holds it.

Its feed-forward matrix holds the rows that go through GELU first, then those that they multiply: the gate and the value
of ours, in this order. Dropout, where there is any, stands inside the feed-forward layer there and behind it here.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal

from training.config import ModelConfig
from training.models.huggingface.counterparts import Counterpart, linear, matrix, norm
from training.models.huggingface.family import Family, effective_window, encoder_obstacles, layer_count, obstacles
from training.models.huggingface.settings import Settings
from training.models.huggingface.stored import StoredTensors
from training.models.huggingface.tokenizer import ENCODER, SpecialTokens

_WINDOWED, _WHOLE = "sliding_attention", "full_attention"
_BIASES = ("attention_bias", "mlp_bias", "norm_bias", "classifier_bias")
_LONGEST_CONTEXT = 1 << 22
"""Tokens; the rotary tables of the trunk take a kilobyte for each."""


class ModernBert(Family):
    """ModernBertForMaskedLM.

    It has four switches for biases: a model with biases on queries, keys and values alone writes zeros for attention's
    output; files with some of the four become a model with all, the others zero.
    """

    name = "modernbert"
    kind = "encoder"
    architectures: ClassVar = {"ModernBertForMaskedLM": "AutoModelForMaskedLM", "ModernBertModel": "AutoModel"}
    prefix = "model."
    tied: ClassVar = {"decoder.weight": "model.embeddings.tok_embeddings.weight"}
    optional = re.compile(r"(head|decoder)\..*")
    ties_by_default = True
    template = ENCODER

    def obstacles(self, config: ModelConfig) -> list[str]:
        """Settings that ModernBERT lacks."""
        return encoder_obstacles(config) + obstacles(
            config,
            positions=["rotary"],
            norm_position=["pre"],
            first_norm=[False],
            mlp=["geglu"],
            head=["transform"],
            embedding_width=[None],
            token_types=[0],
            rope_scaling=[None],
            pooler=[False],
            sentence_classes=[0],
        )

    def to_settings(self, config: ModelConfig) -> dict[str, Any]:
        """The entries of ModernBertConfig, for versions from layer_types on and for those before."""
        window = effective_window(config)
        types = layer_types(config)
        local = config.rope_theta if config.rope_theta_windowed is None else config.rope_theta_windowed
        biases = dict.fromkeys(_BIASES, config.bias == "all") | {"attention_bias": config.bias != "none"}
        old = {"global_attn_every_n_layers": config.global_every} if config.global_every and config.global_first else {}
        old = {"global_attn_every_n_layers": 1} if window is None else old
        return {
            "hidden_size": config.width,
            "intermediate_size": config.hidden_width,
            "num_hidden_layers": config.layers,
            "num_attention_heads": config.heads,
            "hidden_activation": "gelu",
            "classifier_activation": "gelu",
            "max_position_embeddings": config.context_length,
            "norm_eps": config.norm_epsilon,
            **biases,
            "decoder_bias": config.head_bias,
            "embedding_dropout": config.dropout,
            "mlp_dropout": config.dropout,
            "attention_dropout": config.attention_dropout,
            # Counted over both sides, without the token itself.
            "local_attention": 2 * ((config.context_length if window is None else window) - 1),
            "layer_types": types,
            "rope_parameters": {
                _WHOLE: {"rope_type": "default", "rope_theta": config.rope_theta},
                _WINDOWED: {"rope_type": "default", "rope_theta": local},
            },
            **old,
            "global_rope_theta": config.rope_theta,
            "local_rope_theta": local,
            "use_cache": False,
        }

    def token_settings(self, config: ModelConfig, special: SpecialTokens) -> dict[str, Any]:
        """The special tokens, under two names each."""
        named = {"cls_token_id": special.first, "sep_token_id": special.separator}
        return {**super().token_settings(config, special), **named}

    def to_config(self, settings: Settings, tensors: StoredTensors) -> ModelConfig:
        """The model of a ModernBertConfig."""
        for key in ("hidden_activation", "classifier_activation"):
            settings.one_of(key, {"gelu": None}, "gelu")
        layers = layer_count(settings, "num_hidden_layers", 22, tensors)
        context_length = settings.integer("max_position_embeddings", 8192)
        if context_length > _LONGEST_CONTEXT:
            raise settings.wrong("max_position_embeddings", context_length, f"at most {_LONGEST_CONTEXT}")
        width = settings.integer("hidden_size", 768)
        inner = settings.integer("intermediate_size", 1152)
        usual = ModelConfig(width=width, heads=1, mlp="geglu", positions="none").hidden_width
        dropout = settings.number("mlp_dropout", 0.0)
        if settings.number("embedding_dropout", 0.0) != dropout:
            found = settings.number("embedding_dropout", 0.0)
            raise settings.wrong("embedding_dropout", found, f"{dropout:g}, as mlp_dropout")
        whole, windowed = _rope_thetas(settings)
        layout = _layout(settings, layers)
        return ModelConfig(
            layers=layers,
            heads=settings.integer("num_attention_heads", 12),
            width=width,
            mlp_width=None if inner == usual else inner,
            context_length=context_length,
            attention="bidirectional",
            **layout,
            rope_theta=whole,
            rope_theta_windowed=windowed if layout and windowed != whole else None,
            norm="layernorm",
            norm_epsilon=settings.number("norm_eps", 1e-5),
            embedding_norm=True,
            first_norm=False,
            mlp="geglu",
            qk_norm="none",
            bias=_bias(settings, tensors),
            head="transform",
            head_bias=settings.flag("decoder_bias", True),
            tied_embeddings=settings.flag("tie_word_embeddings", self.ties_by_default),
            dropout=dropout,
            attention_dropout=settings.number("attention_dropout", 0.0),
            initialization="gpt2",
        )

    def counterparts(self, config: ModelConfig, settings: Settings, vocabulary_size: int) -> list[Counterpart]:
        """All tensors of ModernBertForMaskedLM."""
        width = config.width
        attention_bias, mlp_bias, norm_bias, head_bias = (settings.flag(key, False) for key in _BIASES)
        table = [
            matrix("embedding.weight", "model.embeddings.tok_embeddings.weight", vocabulary_size, width),
            *norm("embedding_norm", "model.embeddings.norm", width, norm_bias),
        ]
        for layer in range(config.layers):
            ours, theirs = f"blocks.{layer}", f"model.layers.{layer}"
            if layer:
                table += norm(f"{ours}.attention_norm", f"{theirs}.attn_norm", width, norm_bias)
            for name, module, rows, columns, bias in (
                ("attention.qkv", "attn.Wqkv", 3 * width, width, attention_bias),
                ("attention.output", "attn.Wo", width, width, attention_bias),
                ("mlp.input", "mlp.Wi", 2 * config.hidden_width, width, mlp_bias),
                ("mlp.output", "mlp.Wo", width, config.hidden_width, mlp_bias),
            ):
                table += linear(f"{ours}.{name}", {f"{theirs}.{module}": rows}, columns, bias)
            table += norm(f"{ours}.mlp_norm", f"{theirs}.mlp_norm", width, norm_bias)
        table += norm("norm", "model.final_norm", width, norm_bias)
        table += linear("transform.dense", {"head.dense": width}, width, head_bias)
        table += norm("transform.norm", "head.norm", width, norm_bias)
        decoder = [*linear("head", {"decoder": vocabulary_size}, width, settings.flag("decoder_bias", True))]
        return table + (decoder[1:] if config.tied_embeddings else decoder)


def layer_types(config: ModelConfig) -> list[str]:
    """Which layers have a window."""
    if effective_window(config) is None:
        return [_WHOLE] * config.layers
    offset = 0 if config.global_first else 1
    every = config.global_every
    return [_WHOLE if every and (layer + offset) % every == 0 else _WINDOWED for layer in range(config.layers)]


def _layout(settings: Settings, layers: int) -> dict[str, Any]:
    """The fields of the window; none where no layer has one."""
    types = settings.get("layer_types")
    if types is None:
        every = settings.integer("global_attn_every_n_layers", 3)
        types = [_WINDOWED if layer % every else _WHOLE for layer in range(layers)]
    if types == [_WHOLE] * layers:
        return {}
    window = 1 if settings.get("local_attention") == 0 else settings.integer("local_attention", 128) // 2 + 1
    for every in (0, *range(2, layers + 1)):
        for first in (True, False):
            rule = [_WHOLE if every and (layer + (not first)) % every == 0 else _WINDOWED for layer in range(layers)]
            if types == rule:
                return {"window": window, "global_every": every, "global_first": bool(every) and first}
    raise settings.wrong("layer_types", types, f"one of {_WINDOWED} and {_WHOLE} for each layer, {_WHOLE} every n-th")


def _rope_thetas(settings: Settings) -> tuple[float, float]:
    """The bases of layers without and with a window."""
    if settings.get("rope_scaling"):
        raise settings.wrong("rope_scaling", settings["rope_scaling"], "null")
    old = {_WHOLE: ("global_rope_theta", 160_000.0), _WINDOWED: ("local_rope_theta", 10_000.0)}
    section = settings.section("rope_parameters")
    found = []
    for kind, (key, default) in old.items():
        rope = None if section is None else section.section(kind)
        if rope is not None:
            rope.one_of("rope_type", {"default": None}, "default")
        theta = settings.number(key, default)
        found.append(theta if rope is None else rope.number("rope_theta", theta))
    return found[0], found[1]


def _bias(settings: Settings, tensors: StoredTensors) -> Literal["none", "qkv", "all"]:
    """Which biases the trunk needs."""
    attention, *others = (settings.flag(key, False) for key in _BIASES)
    if any(others):
        return "all"
    outputs = [name for name in tensors if name.endswith("attn.Wo.bias")]
    return "none" if not attention else "all" if any(tensors.read(name).any() for name in outputs) else "qkv"
