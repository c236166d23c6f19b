"""Logits, losses and gradients of ALBERT are those of transformers' AlbertForPreTraining and AlbertForMaskedLM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AlbertConfig, AlbertForMaskedLM, AlbertForPreTraining

from tests.training.huggingface.encoders import compare_encoder, encoder_checkpoint, random_theirs, sequences
from tests.training.huggingface.parity import VOCABULARY, exported, imported
from training.checkpoints import load_model
from training.config import ModelConfig
from training.models.huggingface import export, import_model

THEIRS = {
    "vocab_size": VOCABULARY,
    "embedding_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "hidden_size": 32,
    "intermediate_size": 56,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
}
OURS: dict[str, Any] = {
    **ModelConfig.expand("albert-tiny"),
    "heads": 4,
    "width": 32,
    "embedding_width": 16,
    "context_length": 64,
}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_hidden_groups": 2, "hidden_act": "gelu", "embedding_size": 32},
        {"num_hidden_groups": 4, "tie_word_embeddings": False},
    ],
    ids=["usual", "groups", "own-layers-untied"],
)
@pytest.mark.parametrize("kind", [AlbertForPreTraining, AlbertForMaskedLM])
def test_parity_albert_imported(kind: Any, changes: dict[str, Any], tmp_path: Path) -> None:
    theirs = random_theirs(kind, AlbertConfig(**{**THEIRS, **changes}))
    ours = imported(theirs, tmp_path)
    assert ours.config.blocks == changes.get("num_hidden_groups", 1)
    compare_encoder(ours, theirs, "albert", sequences())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"layer_groups": 2, "embedding_width": 32, "mlp": "gelu", "bias": "none", "head_bias": False},
        {"pooler": False, "sentence_classes": 0, "layer_groups": None, "tied_embeddings": False},
    ],
    ids=["usual", "groups-no-biases", "words-untied"],
)
def test_parity_albert_exported_and_read_again(changes: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = encoder_checkpoint(tmp_path, **{**OURS, **changes})
    ours, config = load_model(checkpoint)
    auto = "AutoModelForPreTraining" if config.pooler else "AutoModelForMaskedLM"
    theirs = exported(checkpoint, tmp_path / "theirs", auto)
    assert type(theirs) is (AlbertForPreTraining if config.pooler else AlbertForMaskedLM)
    compare_encoder(ours, theirs, "albert", sequences())
    again = import_model(tmp_path / "theirs", tmp_path / "again")
    if config.bias == "all":
        assert load_model(again)[1] == config
        assert (again / "model.safetensors").read_bytes() == (checkpoint / "model.safetensors").read_bytes()
    else:  # the biases come back as zeros
        compare_encoder(load_model(again)[0], theirs, "albert", sequences())


def test_parity_albert_refuses_inner_groups(tmp_path: Path) -> None:
    theirs = AlbertForMaskedLM(AlbertConfig(**THEIRS, inner_group_num=2))
    theirs.save_pretrained(tmp_path / "theirs")
    with pytest.raises(ValueError, match="inner_group_num: 2 is not supported; it must be 1"):
        import_model(tmp_path / "theirs", tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_parity_albert_is_the_family_of_factorised_embeddings(tmp_path: Path) -> None:
    folder = export(encoder_checkpoint(tmp_path, **{**OURS, "layer_groups": None}), tmp_path / "theirs")
    assert "`AlbertForPreTraining`" in (folder / "README.md").read_text()
    with pytest.raises(ValueError, match="embedding_width is null, must be a number"):
        export(encoder_checkpoint(tmp_path / "b", **{**OURS, "embedding_width": None}), tmp_path / "c", "albert")
