"""Logits, losses and gradients of ELECTRA are those of transformers: ElectraForPreTraining, ElectraForMaskedLM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ElectraConfig, ElectraForMaskedLM, ElectraForPreTraining

from tests.training.huggingface.encoders import compare_encoder, encoder_checkpoint, random_theirs, sequences
from tests.training.huggingface.parity import VOCABULARY, exported, imported
from training.checkpoints import load_model
from training.config import ModelConfig
from training.models.huggingface import export, import_model

THEIRS = {
    "vocab_size": VOCABULARY,
    "embedding_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "hidden_size": 32,
    "intermediate_size": 56,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
}
BOTH: dict[str, Any] = {
    **ModelConfig.expand("electra-tiny"),
    "heads": 4,
    "width": 32,
    "embedding_width": 16,
    "context_length": 64,
}
DISCRIMINATOR = {**BOTH, "architecture": "transformer", "generator_share": 0.25}
GENERATOR = {**DISCRIMINATOR, "head": "transform", "head_bias": True, "tied_embeddings": True}


@pytest.mark.parametrize(
    "changes",
    [{}, {"embedding_size": 32, "type_vocab_size": 1}, {"tie_word_embeddings": False, "intermediate_size": 128}],
    ids=["usual", "no-projection", "untied"],
)
@pytest.mark.parametrize("kind", [ElectraForPreTraining, ElectraForMaskedLM])
def test_parity_electra_imported(kind: Any, changes: dict[str, Any], tmp_path: Path) -> None:
    theirs = random_theirs(kind, ElectraConfig(**{**THEIRS, **changes}))
    ours = imported(theirs, tmp_path)
    assert (ours.embedding_projection is None) == ("embedding_size" in changes)
    family = "electra" if kind is ElectraForPreTraining else "electra-generator"
    compare_encoder(ours, theirs, family, sequences(token_types=ours.config.token_types))


@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("electra", DISCRIMINATOR),
        ("electra", {**DISCRIMINATOR, "embedding_width": None, "bias": "none", "token_types": 1}),
        ("electra-generator", GENERATOR),
        ("electra-generator", {**GENERATOR, "embedding_width": None, "tied_embeddings": False}),
    ],
    ids=["discriminator", "discriminator-no-biases", "generator", "generator-untied"],
)
def test_parity_electra_exported_and_read_again(family: str, config: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = encoder_checkpoint(tmp_path, **config)
    auto = "AutoModelForPreTraining" if family == "electra" else "AutoModelForMaskedLM"
    theirs = exported(checkpoint, tmp_path / "theirs", auto, family=family)
    ours, _ = load_model(checkpoint)
    compare_encoder(ours, theirs, family, sequences(token_types=ours.config.token_types))
    again = import_model(tmp_path / "theirs", tmp_path / "again")
    if ours.config.bias == "all":
        assert load_model(again)[1] == ours.config
        assert (again / "model.safetensors").read_bytes() == (checkpoint / "model.safetensors").read_bytes()


@pytest.mark.parametrize("embedding_width", [8, 16, None])
def test_parity_electra_of_both_models(embedding_width: int | None, tmp_path: Path) -> None:
    """The discriminator by default, the generator by its name; what they share is in both folders."""
    checkpoint = encoder_checkpoint(tmp_path, **{**BOTH, "embedding_width": embedding_width})
    both, _ = load_model(checkpoint)
    discriminator = exported(checkpoint, tmp_path / "discriminator", "AutoModelForPreTraining")
    generator = exported(checkpoint, tmp_path / "generator", "AutoModelForMaskedLM", family="electra-generator")
    assert isinstance(discriminator, ElectraForPreTraining)
    assert isinstance(generator, ElectraForMaskedLM)
    compare_encoder(both.discriminator, discriminator, "electra", sequences())
    compare_encoder(both.generator, generator, "electra-generator", sequences())
    ours = discriminator.electra.embeddings.word_embeddings.weight
    assert torch.equal(ours, generator.electra.embeddings.word_embeddings.weight)
    with pytest.raises(ValueError, match=r"BertForMaskedLM cannot hold this model: architecture is replaced_token"):
        export(checkpoint, tmp_path / "bert", "bert")


def test_parity_electra_of_old_files(tmp_path: Path) -> None:
    theirs = random_theirs(ElectraForMaskedLM, ElectraConfig(**THEIRS))
    theirs.save_pretrained(tmp_path / "theirs")
    path = tmp_path / "theirs" / "model.safetensors"
    weights = load_file(path)
    weights["electra.embeddings.position_ids"] = torch.arange(64)[None]
    weights["generator_lm_head.weight"] = weights["electra.embeddings.word_embeddings.weight"].clone()
    save_file(weights, path)
    ours, _ = load_model(import_model(tmp_path / "theirs", tmp_path / "ours"))
    compare_encoder(ours, theirs, "electra-generator", sequences())


def test_parity_electra_has_gelu_alone(tmp_path: Path) -> None:
    """Its heads have it whatever the layers have."""
    ElectraForMaskedLM(ElectraConfig(**THEIRS, hidden_act="relu")).save_pretrained(tmp_path / "theirs")
    with pytest.raises(ValueError, match='hidden_act: "relu" is not supported; it must be "gelu"'):
        import_model(tmp_path / "theirs", tmp_path / "ours")
