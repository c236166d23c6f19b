"""Models and objectives by name: the shapes of published families, small ones of their kind, and what they learn."""

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
# Devlin et al. 2019, section 3; the tiny one: Turc et al. 2019, table 1. The details as in the published weights.
_BERT: dict[str, Any] = {
    "context_length": 512,
    "attention": "bidirectional",
    "positions": "learned",
    "token_types": 2,
    "norm": "layernorm",
    "norm_position": "post",
    "norm_epsilon": 1e-12,
    "embedding_norm": True,
    "mlp": "gelu",
    "qk_norm": "none",
    "bias": "all",
    "head": "transform",
    "head_bias": True,
    "pooler": True,
    "sentence_classes": 2,
    "tied_embeddings": True,
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "initialization": "bert",
}
# Liu et al. 2019, section 3: BERT without the sentence task, and with one token type as in the published weights.
_ROBERTA: dict[str, Any] = {
    **_BERT,
    "token_types": 1,
    "norm_epsilon": 1e-5,
    "pooler": False,
    "sentence_classes": 0,
}
# Lan et al. 2020, table 1; the details as in version 2 of the published weights (no dropout).
_ALBERT: dict[str, Any] = {
    **_BERT,
    "embedding_width": 128,
    "layer_groups": 1,
    "mlp": "gelu_tanh",
    "dropout": 0.0,
    "attention_dropout": 0.0,
}
# Clark et al. 2020, table 6.
_ELECTRA: dict[str, Any] = {
    **_BERT,
    "architecture": "replaced_token",
    "head": "replaced_token",
    "head_bias": False,
    "pooler": False,
    "sentence_classes": 0,
    "tied_embeddings": False,
}
# Yang et al. 2019, table 8; the details as in the published weights.
_XLNET: dict[str, Any] = {
    "architecture": "two_stream",
    "context_length": 512,
    "attention": "bidirectional",
    "positions": "relative",
    "token_types": 2,
    "norm": "layernorm",
    "norm_position": "post",
    "norm_epsilon": 1e-12,
    "mlp": "gelu",
    "qk_norm": "none",
    "bias": "all",
    "head_bias": True,
    "tied_embeddings": True,
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "initialization": "bert",
}
# Warner et al. 2024, table 4; the details as in the published configurations.
_MODERNBERT: dict[str, Any] = {
    "context_length": 8192,
    "attention": "bidirectional",
    "window": 65,  # 64 tokens on each side
    "global_every": 3,
    "global_first": True,
    "rope_theta": 160_000.0,
    "rope_theta_windowed": 10_000.0,
    "norm": "layernorm",
    "norm_epsilon": 1e-5,
    "embedding_norm": True,
    "first_norm": False,
    "mlp": "geglu",
    "qk_norm": "none",
    "head": "transform",
    "head_bias": True,
    "tied_embeddings": True,
    "initialization": "gpt2",
}
# Raffel et al. 2020, section 3.1.1.
_T5: dict[str, Any] = {
    "architecture": "encoder_decoder",
    "context_length": 512,
    "attention": "bidirectional",
    "positions": "relative",
    "head_width": 64,
    "norm_epsilon": 1e-6,
    "mlp": "relu",
    "qk_norm": "none",
    "tied_embeddings": True,
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "initialization": "t5",
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
    "bert-tiny": {**_BERT, "layers": 2, "heads": 2, "width": 128},
    "bert-base": {**_BERT, "layers": 12, "heads": 12, "width": 768},
    "bert-large": {**_BERT, "layers": 24, "heads": 16, "width": 1024},
    "roberta-tiny": {**_ROBERTA, "layers": 2, "heads": 2, "width": 128},
    "roberta-base": {**_ROBERTA, "layers": 12, "heads": 12, "width": 768},
    "roberta-large": {**_ROBERTA, "layers": 24, "heads": 16, "width": 1024},
    "albert-tiny": {**_ALBERT, "layers": 4, "heads": 2, "width": 128, "embedding_width": 64},
    "albert-base": {**_ALBERT, "layers": 12, "heads": 12, "width": 768},
    "albert-large": {**_ALBERT, "layers": 24, "heads": 16, "width": 1024},
    "albert-xlarge": {**_ALBERT, "layers": 24, "heads": 16, "width": 2048},
    "albert-xxlarge": {**_ALBERT, "layers": 12, "heads": 64, "width": 4096},
    "electra-tiny": {**_ELECTRA, "layers": 2, "heads": 2, "width": 128, "generator_share": 0.5},
    "electra-small": {**_ELECTRA, "layers": 12, "heads": 4, "width": 256, "embedding_width": 128},
    "electra-base": {**_ELECTRA, "layers": 12, "heads": 12, "width": 768, "generator_share": 1 / 3},
    "electra-large": {**_ELECTRA, "layers": 24, "heads": 16, "width": 1024},
    "xlnet-tiny": {**_XLNET, "layers": 2, "heads": 2, "width": 128},
    "xlnet-base": {**_XLNET, "layers": 12, "heads": 12, "width": 768},
    "xlnet-large": {**_XLNET, "layers": 24, "heads": 16, "width": 1024},
    "modernbert-tiny": {**_MODERNBERT, "layers": 4, "heads": 2, "width": 128, "context_length": 512, "window": 33},
    "modernbert-base": {**_MODERNBERT, "layers": 22, "heads": 12, "width": 768, "mlp_width": 1152},
    "modernbert-large": {**_MODERNBERT, "layers": 28, "heads": 16, "width": 1024, "mlp_width": 2624},
    "t5-tiny": {**_T5, "layers": 2, "heads": 2, "width": 128},
    "t5-small": {**_T5, "layers": 6, "heads": 8, "width": 512},
    "t5-base": {**_T5, "layers": 12, "heads": 12, "width": 768},
}


OBJECTIVES: dict[str, dict[str, Any]] = {
    "gpt": {"name": "causal"},
    "bert": {"name": "masked", "sentence_task": "next_sentence", "masking": {"copies": 10}},
    "bert-wwm": {"name": "masked", "sentence_task": "next_sentence", "masking": {"copies": 10, "unit": "word"}},
    "roberta": {"name": "masked"},
    "albert": {"name": "masked", "sentence_task": "sentence_order", "masking": {"unit": "ngram", "longest": 3}},
    "spanbert": {"name": "masked", "masking": {"unit": "span", "longest": 10}},
    "modernbert": {"name": "masked", "masking": {"rate": 0.3}},
    "electra": {"name": "replaced_token", "masking": {"mask_share": 1.0, "random_share": 0.0}},
    "xlnet": {"name": "permutation"},
    "t5": {"name": "span_corruption"},
    "unilm": {"name": "masked", "weight": 1 / 3, "also": [{"name": "prefix", "weight": 1 / 3}, {"weight": 1 / 3}]},
    "simcse": {"name": "contrastive"},
}
"""Objectives by the system that made them known: Radford et al. 2018 (GPT); Devlin et al. 2019, section 3.1, with ten
masks of each text as in the published code (BERT); Cui et al. 2021 (whole words); Liu et al. 2019, section 4 (RoBERTa);
Lan et al. 2020, section 3.1 (ALBERT); Joshi et al. 2020, section 3.1 (SpanBERT); Warner et al. 2024 (ModernBERT); Clark
et al. 2020, section 2 (ELECTRA); Yang et al. 2019, section 2 (XLNet); Raffel et al. 2020, section 3.1.4 (T5); Dong et
al. 2019, section 2.3 (UniLM); Gao et al. 2021, section 3 (SimCSE)."""


def expand_objective(value: Any) -> Any:
    """Turn `"bert"` or `{"preset": "bert", "z_loss": 1e-4}` into the plain fields of an ObjectiveConfig.

    What is given beside a preset replaces its fields; the fields of `masking` one by one. Raises ValueError for unknown
    names.
    """
    if isinstance(value, str):
        value = {"preset": value}
    if not isinstance(value, dict) or "preset" not in value:
        return value
    name = value["preset"]
    if name not in OBJECTIVES:
        raise ValueError(f"preset: {name!r} is unknown; there are {', '.join(OBJECTIVES)}")
    fields = {**OBJECTIVES[name], **{key: setting for key, setting in value.items() if key != "preset"}}
    if isinstance(value.get("masking"), dict):
        fields["masking"] = {**OBJECTIVES[name].get("masking", {}), **value["masking"]}
    return fields


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
