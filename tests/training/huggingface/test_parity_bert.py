"""Logits, losses and gradients of BERT are those of transformers' BertForPreTraining and BertForMaskedLM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM, BertForPreTraining, BertModel

from tests.training.huggingface.encoders import compare_encoder, encoder_checkpoint, random_theirs, sequences
from tests.training.huggingface.parity import VOCABULARY, change_settings, exported, imported
from training.checkpoints import describe, load_model
from training.config import ModelConfig
from training.models.huggingface import export, import_model

THEIRS = {
    "vocab_size": VOCABULARY,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "hidden_size": 32,
    "intermediate_size": 56,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
}
OURS: dict[str, Any] = {
    **ModelConfig.expand("bert-tiny"),
    "heads": 4,
    "width": 32,
    "context_length": 64,
}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"hidden_act": "gelu_new", "layer_norm_eps": 1e-5, "type_vocab_size": 3},
        {"tie_word_embeddings": False, "num_hidden_layers": 3, "hidden_dropout_prob": 0.0},
    ],
    ids=["usual", "gelu-tanh", "untied"],
)
@pytest.mark.parametrize("kind", [BertForPreTraining, BertForMaskedLM])
def test_parity_bert_imported(kind: Any, changes: dict[str, Any], tmp_path: Path) -> None:
    theirs = random_theirs(kind, BertConfig(**{**THEIRS, **changes}))
    ours = imported(theirs, tmp_path)
    assert ours.config.pooler == (kind is BertForPreTraining)
    compare_encoder(ours, theirs, "bert", sequences())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pooler": False, "sentence_classes": 0},
        {"sentence_classes": 0, "token_types": 0, "mlp": "gelu_tanh"},
        {"bias": "none", "head_bias": False, "tied_embeddings": False, "mlp_width": 40},
    ],
    ids=["usual", "words", "pooler-alone", "no-biases-untied"],
)
def test_parity_bert_exported(changes: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = encoder_checkpoint(tmp_path, **{**OURS, **changes})
    ours, config = load_model(checkpoint)
    auto = "AutoModelForPreTraining" if config.pooler else "AutoModelForMaskedLM"
    theirs = exported(checkpoint, tmp_path / "theirs", auto, family="bert")
    assert type(theirs).__name__ == ("BertForPreTraining" if config.pooler else "BertForMaskedLM")
    if config.pooler and not config.sentence_classes:
        # Its head of zeros says nothing; the words are compared without it.
        assert not theirs.cls.seq_relationship.weight.any()
        words = BertForMaskedLM.from_pretrained(tmp_path / "theirs")
        data = sequences(token_types=config.token_types)
        ids, mask = data.padded(data.ids, 1), data.padded(data.numbers, 0) > 0
        logits = words(ids, attention_mask=mask.long()).logits
        torch.testing.assert_close(ours(ids, mask.long())[mask], logits[mask], rtol=1e-5, atol=2e-5)
        return
    compare_encoder(ours, theirs, "bert", sequences(token_types=config.token_types))


def test_parity_bert_of_old_files(tmp_path: Path) -> None:
    """As the first published files are: gains called gamma, copies of tied weights, buffers, another class named."""
    theirs = random_theirs(BertForPreTraining, BertConfig(**THEIRS))
    theirs.save_pretrained(tmp_path / "theirs")
    path = tmp_path / "theirs" / "model.safetensors"
    weights = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in load_file(path).items()
    }
    weights["bert.embeddings.position_ids"] = torch.arange(64)[None]
    weights["cls.predictions.decoder.weight"] = weights["bert.embeddings.word_embeddings.weight"].clone()
    weights["cls.predictions.decoder.bias"] = weights["cls.predictions.bias"].clone()
    save_file(weights, path)
    change_settings(tmp_path / "theirs", architectures=["BertForMaskedLM"], position_embedding_type="absolute")
    ours, _ = load_model(import_model(tmp_path / "theirs", tmp_path / "ours"))
    compare_encoder(ours, theirs, "bert", sequences())
    weights["cls.predictions.decoder.bias"] += 1
    save_file(weights, path)
    with pytest.raises(ValueError, match=r"cls\.predictions\.decoder\.bias: differs from cls\.predictions\.bias"):
        import_model(tmp_path / "theirs", tmp_path / "again")
    del weights["bert.pooler.dense.bias"], weights["cls.predictions.decoder.bias"]
    weights["bert.embeddings.LayerNorm.gamma"] = torch.ones(3)
    save_file(weights, path)
    match = r"missing bert\.pooler\.dense\.bias; bert\.embeddings\.LayerNorm\.gamma of shape \[3\] instead of \[32\]"
    with pytest.raises(ValueError, match=match):
        import_model(tmp_path / "theirs", tmp_path / "again")


def test_parity_bert_of_the_bare_trunk(tmp_path: Path) -> None:
    """Its hidden states and pooler are read; the head that it lacks is drawn, alike each time, and named."""
    theirs = random_theirs(BertModel, BertConfig(**THEIRS)).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    state = torch.get_rng_state()
    checkpoint = import_model(tmp_path / "theirs", tmp_path / "ours")
    assert torch.equal(torch.get_rng_state(), state)
    ours, config = load_model(checkpoint)
    assert (config.pooler, config.sentence_classes) == (True, 0)
    data = sequences()
    ids, mask = data.padded(data.ids, 1), data.padded(data.numbers, 0) > 0
    output = theirs(ids, mask.long(), data.padded(data.segments, 0))
    hidden = ours.hidden(ids, mask.long(), segments_BT=data.padded(data.segments, 0))
    torch.testing.assert_close(hidden[mask], output.last_hidden_state[mask], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.pooled(hidden[:, 0]), output.pooler_output, rtol=1e-5, atol=1e-5)
    names = ["transform.dense.weight", "transform.dense.bias", "transform.norm.weight", "transform.norm.bias"]
    assert describe(checkpoint)["imported"]["untrained"] == [*names, "head.bias"]
    assert 0.01 < ours.transform.dense.weight.std() < 0.03
    again = import_model(tmp_path / "theirs", tmp_path / "again")
    assert (again / "model.safetensors").read_bytes() == (checkpoint / "model.safetensors").read_bytes()
    weights = load_file(tmp_path / "theirs" / "model.safetensors") | {"cls.predictions.bias": torch.zeros(VOCABULARY)}
    save_file(weights, tmp_path / "theirs" / "model.safetensors")
    with pytest.raises(ValueError, match=r"missing cls\.predictions\.transform\.dense\.weight"):
        import_model(tmp_path / "theirs", tmp_path / "third")


def test_parity_bert_round_trip(tmp_path: Path) -> None:
    checkpoint = encoder_checkpoint(tmp_path, **OURS)
    again = import_model(export(checkpoint, tmp_path / "theirs"), tmp_path / "again")
    assert load_model(again)[1] == ModelConfig(**OURS)
    assert (again / "model.safetensors").read_bytes() == (checkpoint / "model.safetensors").read_bytes()
    assert describe(again)["special_tokens"] == describe(checkpoint)["special_tokens"]
