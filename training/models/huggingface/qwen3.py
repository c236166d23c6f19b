"""Qwen3 (Yang et al. 2025) as transformers' Qwen3ForCausalLM holds it: Llama with trained QK-norm, and windows."""

from __future__ import annotations

from typing import Any, ClassVar

from training.config import ModelConfig
from training.models.huggingface.family import effective_window, layer_count
from training.models.huggingface.llama import Llama, rotary_fields, rotary_obstacles, rotary_settings
from training.models.huggingface.settings import Settings
from training.models.huggingface.stored import StoredTensors

_WINDOWED, _WHOLE = "sliding_attention", "full_attention"


class Qwen3(Llama):
    """Qwen3ForCausalLM."""

    name = "qwen3"
    architectures: ClassVar = {"Qwen3ForCausalLM": "AutoModelForCausalLM"}
    qk_norm = "gains"

    def obstacles(self, config: ModelConfig) -> list[str]:
        """Settings that Qwen3 lacks."""
        lines = rotary_obstacles(config, self.qk_norm)
        return [*lines, "bias is all, must be none or qkv"] if config.bias == "all" else lines

    def to_settings(self, config: ModelConfig) -> dict[str, Any]:
        """The entries of Qwen3Config."""
        window = effective_window(config)
        types = [_WHOLE] * config.layers if window is None else layer_types(config.layers, config.global_every)
        return {
            **rotary_settings(config),
            "use_sliding_window": window is not None,
            "sliding_window": window,
            # Older readers know this instead of layer_types: the first so many layers see everything.
            "max_window_layers": config.layers if window is None else 0,
            "layer_types": types,
        }

    def to_config(self, settings: Settings, tensors: StoredTensors) -> ModelConfig:
        """The trunk of a Qwen3Config."""
        layers = layer_count(settings, "num_hidden_layers", 32, tensors)
        window, global_every = _window(settings, layers)
        return ModelConfig(
            **rotary_fields(
                settings,
                layers,
                kv_heads=settings.integer("num_key_value_heads", 32),
                head_width=settings.integer("head_dim", 128),
                context_length=settings.integer("max_position_embeddings", 32_768),
                mlp_width=settings.integer("intermediate_size", 22_016),
            ),
            window=window,
            global_every=global_every,
            qk_norm=self.qk_norm,
            bias=self.bias(settings, tensors),
            tied_embeddings=settings.flag("tie_word_embeddings", self.ties_by_default),
        )


def layer_types(layers: int, global_every: int) -> list[str]:
    """Which layers have a window: all but every `global_every`-th."""
    return [_WHOLE if global_every and (layer + 1) % global_every == 0 else _WINDOWED for layer in range(layers)]


def _window(settings: Settings, layers: int) -> tuple[int | None, int]:
    """The window and every which layer has none; (None, 0) where none has one."""
    if not settings.flag("use_sliding_window", False):
        return None, 0
    window = settings.integer("sliding_window", 4096)
    types = settings.get("layer_types")
    if types is None:
        first = settings.get("max_window_layers", 28)
        if isinstance(first, bool) or not isinstance(first, int):
            raise settings.wrong("max_window_layers", first, "a whole number")
        types = [_WHOLE if layer < first else _WINDOWED for layer in range(layers)]
    if types == [_WHOLE] * layers:
        return None, 0
    for global_every in (0, *range(2, layers + 1)):
        if types == layer_types(layers, global_every):
            return window, global_every
    raise settings.wrong("layer_types", types, f"one of {_WINDOWED} and {_WHOLE} for each layer, {_WHOLE} every n-th")
