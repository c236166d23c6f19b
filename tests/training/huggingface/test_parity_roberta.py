"""Logits, losses and gradients of RoBERTa are those of transformers' RobertaForMaskedLM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import RobertaConfig, RobertaForMaskedLM

from tests.training.huggingface.encoders import (
    PADDING,
    compare_encoder,
    encoder_checkpoint,
    random_theirs,
    sequences,
)
from tests.training.huggingface.parity import VOCABULARY, exported, imported
from training.checkpoints import load_model
from training.config import ModelConfig
from training.models.huggingface import export, import_model

THEIRS = {
    "vocab_size": VOCABULARY,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "hidden_size": 32,
    "intermediate_size": 128,
    "max_position_embeddings": 66,  # 64 tokens and the rows of padding
    "type_vocab_size": 1,
    "pad_token_id": 1,
    "layer_norm_eps": 1e-5,
}
OURS: dict[str, Any] = {**ModelConfig.expand("roberta-tiny"), "heads": 4, "width": 32, "context_length": 64}


@pytest.mark.parametrize(
    "changes",
    [{}, {"type_vocab_size": 2, "intermediate_size": 56}, {"tie_word_embeddings": False}],
    ids=["usual", "two-types", "untied"],
)
def test_parity_roberta_imported(changes: dict[str, Any], tmp_path: Path) -> None:
    theirs = random_theirs(RobertaForMaskedLM, RobertaConfig(**{**THEIRS, **changes}))
    ours = imported(theirs, tmp_path)
    assert ours.config.context_length == 64
    compare_encoder(ours, theirs, "roberta", sequences(token_types=ours.config.token_types))


@pytest.mark.parametrize(
    "changes",
    [{}, {"token_types": 0, "bias": "none", "head_bias": False}, {"tied_embeddings": False, "mlp_width": 40}],
    ids=["usual", "no-biases", "untied"],
)
def test_parity_roberta_exported(changes: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = encoder_checkpoint(tmp_path, **{**OURS, **changes})
    theirs = exported(checkpoint, tmp_path / "theirs", "AutoModelForMaskedLM")
    assert isinstance(theirs, RobertaForMaskedLM)
    assert theirs.config.pad_token_id == PADDING
    places = theirs.roberta.embeddings.position_embeddings.weight
    assert places.shape == (66, 32)
    assert not places[:2].any()
    compare_encoder(load_model(checkpoint)[0], theirs, "roberta", sequences(token_types=0))


def test_parity_roberta_with_another_token_for_padding(tmp_path: Path) -> None:
    """Places are counted from the one behind its id."""
    checkpoint = encoder_checkpoint(tmp_path, padding=0, **OURS)
    theirs = exported(checkpoint, tmp_path / "theirs", "AutoModelForMaskedLM")
    assert (theirs.config.pad_token_id, theirs.config.max_position_embeddings) == (0, 65)
    compare_encoder(load_model(checkpoint)[0], theirs, "roberta", sequences(token_types=0))


def test_parity_roberta_round_trip_with_what_its_files_may_hold(tmp_path: Path) -> None:
    checkpoint = encoder_checkpoint(tmp_path, **OURS)
    folder = export(checkpoint, tmp_path / "theirs")
    weights = load_file(folder / "model.safetensors")
    weights["roberta.pooler.dense.weight"] = torch.ones(32, 32)
    weights["roberta.pooler.dense.bias"] = torch.ones(32)
    weights["roberta.embeddings.position_ids"] = torch.arange(66)[None]
    save_file(weights, folder / "model.safetensors")
    again = import_model(folder, tmp_path / "again")
    assert load_model(again)[1] == ModelConfig(**OURS)
    assert (again / "model.safetensors").read_bytes() == (checkpoint / "model.safetensors").read_bytes()
