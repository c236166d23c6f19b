"""Models by name: the shapes of published families, and small ones of their kind."""

from __future__ import annotations

from typing import Any

# Radford et al. 2019, table 2; the details as in the published weights.
_GPT2: dict[str, Any] = {
    "context_length": 1024,
    "positions": "learned",
    "norm": "layernorm",
    "norm_epsilon": 1e-5,
    "mlp": "gelu_tanh",
    "qk_norm": "none",
    "bias": "all",
    "tied_embeddings": True,
    "initialization": "gpt2",
}
# Touvron et al. 2023; Llama 3: Grattafiori et al. 2024, table 3, and the model cards of 3.2.
_LLAMA: dict[str, Any] = {
    "mlp": "swiglu",
    "qk_norm": "none",
    "norm_epsilon": 1e-5,
    "initialization": "gpt2",
}
_LLAMA3: dict[str, Any] = {
    **_LLAMA,
    "context_length": 8192,
    "rope_theta": 500_000.0,
    "kv_heads": 8,
}
# Yang et al. 2025, table 1; the details as in the published configurations.
_QWEN3: dict[str, Any] = {
    "head_width": 128,
    "kv_heads": 8,
    "context_length": 32_768,
    "mlp": "swiglu",
    "qk_norm": "gains",
    "norm_epsilon": 1e-6,
    "rope_theta": 1_000_000.0,
    "initialization": "gpt2",
}

PRESETS: dict[str, dict[str, Any]] = {
    "nano": {},
    "gpt2": {**_GPT2, "layers": 12, "heads": 12, "width": 768},
    "gpt2-medium": {**_GPT2, "layers": 24, "heads": 16, "width": 1024},
    "gpt2-large": {**_GPT2, "layers": 36, "heads": 20, "width": 1280},
    "gpt2-xl": {**_GPT2, "layers": 48, "heads": 25, "width": 1600},
    "llama-tiny": {**_LLAMA, "layers": 6, "heads": 6, "width": 288, "context_length": 256},
    "llama-125m": {**_LLAMA, "layers": 12, "heads": 12, "width": 768, "context_length": 2048},
    "llama-350m": {**_LLAMA, "layers": 24, "heads": 16, "width": 1024, "context_length": 2048},
    "llama-1b": {**_LLAMA3, "layers": 16, "heads": 32, "width": 2048, "mlp_width": 8192, "tied_embeddings": True},
    "llama-3b": {**_LLAMA3, "layers": 28, "heads": 24, "width": 3072, "mlp_width": 8192, "tied_embeddings": True},
    "llama-8b": {**_LLAMA3, "layers": 32, "heads": 32, "width": 4096, "mlp_width": 14_336},
    "qwen3-0.6b": {**_QWEN3, "layers": 28, "heads": 16, "width": 1024, "mlp_width": 3072, "tied_embeddings": True},
    "qwen3-1.7b": {**_QWEN3, "layers": 28, "heads": 16, "width": 2048, "mlp_width": 6144, "tied_embeddings": True},
    "qwen3-4b": {**_QWEN3, "layers": 36, "heads": 32, "width": 2560, "mlp_width": 9728, "tied_embeddings": True},
    "qwen3-8b": {**_QWEN3, "layers": 36, "heads": 32, "width": 4096, "mlp_width": 12_288},
}


def expand_preset(value: Any) -> Any:
    """Turn `"gpt2"` or `{"preset": "gpt2", "context_length": 512}` into the plain fields of a ModelConfig.

    Anything else passes through, so that it serves as a pydantic BeforeValidator. Raises ValueError for unknown names.
    """
    if isinstance(value, str):
        value = {"preset": value}
    if not isinstance(value, dict) or "preset" not in value:
        return value
    name = value["preset"]
    if name not in PRESETS:
        raise ValueError(f"preset: {name!r} is unknown; there are {', '.join(PRESETS)}")
    return {**PRESETS[name], **{key: setting for key, setting in value.items() if key != "preset"}}
