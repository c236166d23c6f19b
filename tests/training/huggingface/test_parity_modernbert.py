"""Logits, losses and gradients of ModernBERT are those of transformers' ModernBertForMaskedLM."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import ModernBertConfig, ModernBertForMaskedLM

from tests.training.huggingface.encoders import compare_encoder, encoder_checkpoint, random_theirs, sequences
from tests.training.huggingface.parity import VOCABULARY, change_settings, exported, imported
from training.checkpoints import load_model
from training.config import ModelConfig
from training.models.huggingface import export, import_model

THEIRS = {
    "vocab_size": VOCABULARY,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "hidden_size": 32,
    "intermediate_size": 56,
    "max_position_embeddings": 64,
    "local_attention": 8,
    "pad_token_id": 1,
    "bos_token_id": 3,
    "eos_token_id": 4,
    "cls_token_id": 3,
    "sep_token_id": 4,
}
OURS: dict[str, Any] = {
    **ModelConfig.expand("modernbert-tiny"),
    "layers": 5,
    "heads": 4,
    "width": 32,
    "mlp_width": 56,
    "context_length": 64,
    "window": 5,
}
ALL_BIASES = dict.fromkeys(("attention_bias", "mlp_bias", "norm_bias", "classifier_bias"), True)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {**ALL_BIASES, "decoder_bias": False, "tie_word_embeddings": False, "norm_eps": 1e-3},
        {"attention_bias": True, "local_attention": 6},
        {"norm_bias": True, "layer_types": ["sliding_attention", "full_attention"] * 2 + ["sliding_attention"]},
        {"layer_types": ["full_attention"] * 5},
        {
            "layer_types": ["sliding_attention"] * 5,
            "rope_parameters": {"sliding_attention": {"rope_type": "default", "rope_theta": 100.0}},
        },
    ],
    ids=["usual", "all-biases-untied", "attention-bias", "other-layers", "no-window", "all-windows"],
)
def test_parity_modernbert_imported(changes: dict[str, Any], tmp_path: Path) -> None:
    theirs = random_theirs(ModernBertForMaskedLM, ModernBertConfig(**{**THEIRS, **changes}))
    ours = imported(theirs, tmp_path)
    assert (ours.config.window is None) == (changes.get("layer_types") == ["full_attention"] * 5)
    compare_encoder(ours, theirs, "modernbert", sequences())


def test_parity_modernbert_with_the_keys_of_old_versions(tmp_path: Path) -> None:
    theirs = random_theirs(ModernBertForMaskedLM, ModernBertConfig(**THEIRS))
    old = {"layer_types": None, "rope_parameters": None, "global_attn_every_n_layers": 3}
    ours = imported(theirs, tmp_path, **old, global_rope_theta=160_000.0, local_rope_theta=10_000.0)
    assert (ours.config.rope_theta, ours.config.rope_theta_windowed) == (160_000.0, 10_000.0)
    compare_encoder(ours, theirs, "modernbert", sequences())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"bias": "all", "head_bias": False, "tied_embeddings": False, "global_every": 2, "global_first": False},
        {"bias": "qkv", "window": 2, "global_every": 0, "global_first": False, "rope_theta_windowed": None},
        {"window": None, "global_every": 0, "global_first": False, "rope_theta_windowed": None},
    ],
    ids=["usual", "all-biases", "all-windows", "no-window"],
)
def test_parity_modernbert_exported_and_read_again(changes: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = encoder_checkpoint(tmp_path, **{**OURS, **changes})
    theirs = exported(checkpoint, tmp_path / "theirs", "AutoModelForMaskedLM")
    assert isinstance(theirs, ModernBertForMaskedLM)
    compare_encoder(load_model(checkpoint)[0], theirs, "modernbert", sequences())
    again = import_model(tmp_path / "theirs", tmp_path / "again")
    assert load_model(again)[1] == load_model(checkpoint)[1]
    assert (again / "model.safetensors").read_bytes() == (checkpoint / "model.safetensors").read_bytes()


def test_parity_modernbert_exported_for_old_versions(tmp_path: Path) -> None:
    settings = json.loads(
        (export(encoder_checkpoint(tmp_path, **OURS), tmp_path / "theirs") / "config.json").read_text()
    )
    assert settings["global_attn_every_n_layers"] == 3
    assert settings["local_attention"] == 8
    assert (settings["cls_token_id"], settings["sep_token_id"], settings["pad_token_id"]) == (3, 4, 1)


def test_parity_modernbert_takes_no_layers_without_a_rule(tmp_path: Path) -> None:
    folder = export(encoder_checkpoint(tmp_path, **OURS), tmp_path / "theirs")
    change_settings(folder, layer_types=["full_attention"] * 2 + ["sliding_attention"] * 3)
    with pytest.raises(ValueError, match=r"layer_types: .* every n-th"):
        import_model(folder, tmp_path / "ours")


def test_parity_modernbert_keeps_its_window_in_long_rows(tmp_path: Path) -> None:
    """A change outside of all windows that lead to a token leaves it as it was; one at their edge does not."""
    config = {**OURS, "layers": 1, "global_every": 0, "global_first": False}
    checkpoint = encoder_checkpoint(tmp_path, **config)
    theirs = exported(checkpoint, tmp_path / "theirs", "AutoModelForMaskedLM")
    data = sequences((30,))
    for distance, changes in ((4, True), (5, False)):
        other = data.ids.clone()
        other[10 + distance] = 7 + (other[10 + distance] == 7)
        for model in (lambda ids: theirs(ids).logits, load_model(checkpoint)[0]):
            same = torch.equal(model(data.ids[None])[0, 10], model(other[None])[0, 10])
            assert same != changes
