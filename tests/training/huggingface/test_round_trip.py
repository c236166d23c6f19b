from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.huggingface.parity import random_checkpoint
from tests.training.huggingface.test_parity import OURS_GPT2, OURS_LLAMA
from training.checkpoints import load_model
from training.config import ModelConfig, RopeScaling
from training.models.huggingface import export, import_model

_COMMON: dict[str, Any] = {
    "layers": st.integers(1, 3),
    "context_length": st.sampled_from([8, 20]),
    "norm_epsilon": st.sampled_from([1e-6, 1e-5, 0.03]),
    "tied_embeddings": st.booleans(),
    "attention_dropout": st.sampled_from([0.0, 0.25]),
    "mlp_width": st.sampled_from([None, 24, 64]),
    "initialization": st.just("gpt2"),
}
_GPT2 = {
    **_COMMON,
    "heads": st.sampled_from([1, 2, 4]),
    "width": st.sampled_from([16, 32]),
    "positions": st.just("learned"),
    "norm": st.just("layernorm"),
    "mlp": st.sampled_from(["gelu_tanh", "gelu", "relu", "relu2"]),
    "qk_norm": st.just("none"),
    "bias": st.just("all"),
    "dropout": st.sampled_from([0.0, 0.1]),
}
_SCALINGS = st.sampled_from(
    [
        None,
        RopeScaling("linear", 2.5),
        RopeScaling("llama3", 4.0, 16, 1.5, 3.0),
        RopeScaling("yarn", 4.0, 16, beta_fast=20.0, beta_slow=2.0),
    ]
)
_LLAMA = {
    **_COMMON,
    "heads": st.just(4),
    "kv_heads": st.sampled_from([None, 1, 2]),
    "width": st.sampled_from([16, 32]),
    "head_width": st.sampled_from([None, 6, 16]),
    "rope_theta": st.sampled_from([10_000.0, 77.5]),
    "rope_scaling": _SCALINGS,
    "mlp": st.just("swiglu"),
    "qk_norm": st.just("none"),
    "bias": st.sampled_from(["none", "qkv", "all"]),
}
_QWEN3 = {
    **_LLAMA,
    "qk_norm": st.just("gains"),
    "bias": st.sampled_from(["none", "qkv"]),
    "window": st.sampled_from([None, 5]),
}
_ENCODER = {
    **_COMMON,
    "heads": st.sampled_from([1, 2, 4]),
    "width": st.sampled_from([16, 32]),
    "attention": st.just("bidirectional"),
    "positions": st.just("learned"),
    "norm": st.just("layernorm"),
    "norm_position": st.just("post"),
    "embedding_norm": st.just(True),
    "token_types": st.sampled_from([1, 2, 5]),
    "mlp": st.just("gelu"),
    "qk_norm": st.just("none"),
    "bias": st.just("all"),
    "head": st.just("transform"),
    "head_bias": st.just(True),
    "dropout": st.sampled_from([0.0, 0.1]),
    "initialization": st.just("bert"),
}
_POOLED = {"pooler": st.just(True), "sentence_classes": st.just(2)}
_MODERNBERT = {
    **{name: field for name, field in _ENCODER.items() if name != "norm_position"},
    "positions": st.just("rotary"),
    "first_norm": st.just(False),
    "token_types": st.just(0),
    "mlp": st.just("geglu"),
    "bias": st.sampled_from(["none", "qkv", "all"]),
    "head_bias": st.booleans(),
    "rope_theta": st.sampled_from([160_000.0, 77.5]),
    "initialization": st.just("gpt2"),
}
_KINDS = [
    _GPT2,
    _LLAMA,
    _QWEN3,
    _ENCODER,  # BERT or RoBERTa, by its token types
    {**_ENCODER, **_POOLED, "mlp": st.sampled_from(["gelu", "gelu_tanh"])},
    {
        **_ENCODER,
        **_POOLED,
        "layers": st.integers(2, 3),
        "layer_groups": st.just(1),
        "embedding_width": st.sampled_from([8, 16]),
    },
    {**_ENCODER, "head": st.just("replaced_token"), "head_bias": st.just(False), "tied_embeddings": st.just(False)},
    _MODERNBERT,
    {**_MODERNBERT, "window": st.sampled_from([1, 5]), "rope_theta_windowed": st.sampled_from([None, 50.0])},
]


@settings(max_examples=25, deadline=None)
@given(st.one_of(*map(st.fixed_dictionaries, _KINDS)))
def test_a_model_comes_back_as_it_went(fields: dict[str, Any]) -> None:
    # What is the default anyway comes back as the default.
    if fields.get("head_width") == fields["width"] // fields["heads"]:
        fields["head_width"] = None
    if fields["mlp_width"] == ModelConfig(**{**fields, "mlp_width": None}).hidden_width:
        fields["mlp_width"] = None
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = random_checkpoint(Path(folder), **fields)
        again = import_model(export(checkpoint, Path(folder, "theirs")), Path(folder, "again"))
        config = load_model(again)[1]
        assert config == ModelConfig(**fields)
        for name in ("model.safetensors", "tokenizer.json"):
            assert (again / name).read_bytes() == (checkpoint / name).read_bytes()


@pytest.mark.parametrize("global_every", [2, 3, 4])
def test_windows_come_back(global_every: int, tmp_path: Path) -> None:
    fields = {**OURS_LLAMA, "layers": 6, "qk_norm": "gains", "window": 9, "global_every": global_every}
    checkpoint = random_checkpoint(tmp_path, **fields)
    config = load_model(import_model(export(checkpoint, tmp_path / "theirs"), tmp_path / "again"))[1]
    assert (config.window, config.global_every) == (9, global_every)


def test_what_is_written_as_something_else_comes_back_as_that(tmp_path: Path) -> None:
    scaled = random_checkpoint(
        tmp_path / "a", **{**OURS_LLAMA, "rope_scaling": RopeScaling("ntk", 4.0), "rope_theta": 100.0}
    )
    config = load_model(import_model(export(scaled, tmp_path / "a" / "theirs"), tmp_path / "a" / "again"))[1]
    assert config.rope_scaling is None
    assert config.rope_theta == pytest.approx(100.0 * 4.0 ** (8 / 6))
    plain = random_checkpoint(tmp_path / "b", **{**OURS_GPT2, "bias": "none"})
    model, config = load_model(import_model(export(plain, tmp_path / "b" / "theirs"), tmp_path / "b" / "again"))
    assert config.bias == "all"
    assert not model.blocks[1].attention.qkv.bias.any()  # type: ignore[union-attr]
