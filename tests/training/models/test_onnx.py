"""What onnxruntime computes is what transformers computes of the same export, whatever batch and length."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer

from tests.training.huggingface.encoders import PADDING, encoder_checkpoint, sequences
from tests.training.huggingface.parity import exported, random_checkpoint, randomize
from tests.training.huggingface.test_parity import OURS_GPT2
from tests.training.huggingface.test_parity_albert import OURS as ALBERT
from tests.training.huggingface.test_parity_bert import OURS as BERT
from tests.training.huggingface.test_parity_electra import BOTH as ELECTRA
from tests.training.huggingface.test_parity_modernbert import OURS as MODERNBERT
from tests.training.huggingface.test_parity_roberta import OURS as ROBERTA
from training.checkpoints import load_model
from training.finetuning.network import Head
from training.models.huggingface import export
from training.models.onnx import export_onnx

CASES: dict[str, tuple[dict[str, Any], str]] = {
    "bert": (BERT, "AutoModelForPreTraining"),
    "bert-untied": ({**BERT, "tied_embeddings": False, "mlp": "gelu_tanh", "layers": 3}, "AutoModelForPreTraining"),
    "bert-without-pooler": ({**BERT, "pooler": False, "sentence_classes": 0}, "AutoModelForMaskedLM"),
    "roberta": (ROBERTA, "AutoModelForMaskedLM"),
    "roberta-no-types": ({**ROBERTA, "token_types": 0, "bias": "none", "head_bias": False}, "AutoModelForMaskedLM"),
    "electra": (ELECTRA, "AutoModelForPreTraining"),
    "modernbert": (MODERNBERT, "AutoModelForMaskedLM"),
    "albert": (ALBERT, "AutoModelForPreTraining"),
    "albert-groups": ({**ALBERT, "layer_groups": 2}, "AutoModelForPreTraining"),
}
NAMES = {
    "logits": ("prediction_logits", "logits"),
    "sentence_logits": ("seq_relationship_logits", "sop_logits"),
}
"""Ours, and what transformers calls them."""


def run(path: Path, **inputs: Any) -> dict[str, torch.Tensor]:
    """The outputs of a model by name, from onnxruntime on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    known = [node.name for node in session.get_inputs()]
    found = session.run(None, {name: np.asarray(inputs[name]) for name in known})
    return {node.name: torch.from_numpy(value) for node, value in zip(session.get_outputs(), found, strict=True)}


def batch(lengths: tuple[int, ...], types: int) -> dict[str, torch.Tensor]:
    data = sequences(lengths, token_types=max(1, types))
    return {
        "input_ids": data.padded(data.ids, PADDING),
        "attention_mask": (data.padded(data.numbers, 0) > 0).long(),
        "token_type_ids": data.padded(data.segments, 0),
    }


@pytest.mark.parametrize("case", CASES)
def test_the_outputs_are_those_of_transformers(case: str, tmp_path: Path) -> None:
    config, auto = CASES[case]
    checkpoint = encoder_checkpoint(tmp_path, **config)
    theirs = exported(checkpoint, tmp_path / "theirs", auto)
    path = export_onnx(checkpoint, tmp_path / "onnx")
    types = config.get("token_types", 0)
    for lengths in ((24, 9, 17), (1,), (64, 33)):  # other batches and lengths, up to the context
        inputs = batch(lengths, types)
        found = run(path, **inputs)
        real = inputs["attention_mask"] > 0
        given = inputs if types > 1 else {key: inputs[key] for key in ("input_ids", "attention_mask")}
        with torch.no_grad():
            body, heads = theirs.base_model(**given), theirs(**given)
        expected = {"last_hidden_state": body.last_hidden_state[real]}
        if config.get("pooler"):
            expected["pooler_output"] = body.pooler_output
        for ours, names in NAMES.items():
            for name in names:
                if name in heads:
                    expected[ours] = heads[name][real] if ours == "logits" else heads[name]
        for name in ("last_hidden_state", "logits"):
            found[name] = found[name][real]
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=2e-5)


def test_the_vector_of_a_text_is_an_output_of_a_sentence_encoder(tmp_path: Path) -> None:
    for mode in ("first", "mean", "max", "mean_root", "weighted_mean", "last"):
        checkpoint = encoder_checkpoint(tmp_path / mode, **BERT)
        document = json.loads((checkpoint / "config.json").read_text())
        document["pooling"] = {"mode": mode, "normalize": mode != "max"}
        (checkpoint / "config.json").write_text(json.dumps(document))
        found = run(export_onnx(checkpoint, tmp_path / mode / "onnx"), **batch((5, 11, 2), 2))
        assert found.keys() == {"last_hidden_state", "sentence_embedding"}
        for row, length in enumerate((5, 11, 2)):
            hidden = found["last_hidden_state"][row, :length]
            expected = {
                "first": hidden[0],
                "last": hidden[-1],
                "mean": hidden.mean(0),
                "max": hidden.max(0).values,
                "mean_root": hidden.sum(0) / length**0.5,
                "weighted_mean": (hidden * torch.arange(1, length + 1)[:, None]).sum(0) / (length * (length + 1) / 2),
            }[mode]
            expected = expected if mode == "max" else expected / expected.norm()
            torch.testing.assert_close(found["sentence_embedding"][row], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pooling", ["first", "mean", "last"])
@pytest.mark.parametrize("pooler", [True, False])
def test_the_heads_of_a_fine_tuned_model_are_outputs(pooling: str, pooler: bool, tmp_path: Path) -> None:
    checkpoint = encoder_checkpoint(tmp_path, **BERT if pooler else {**BERT, "pooler": False, "sentence_classes": 0})
    model, _ = load_model(checkpoint)
    dense = pooling == "first" and not pooler
    random = torch.Generator().manual_seed(1)
    heads = {"cola": Head(32, 3, 0.1, dense, random), "ner": Head(32, 5, 0.1, False, random)}
    for head in heads.values():
        randomize(head)
    state = {f"{name}.{key}": value for name, head in heads.items() for key, value in head.state_dict().items()}
    save_file(state, checkpoint / "head.safetensors")
    tasks = [{"name": "cola", "kind": "classification"}, {"name": "ner", "kind": "token_classification"}]
    document = json.loads((checkpoint / "config.json").read_text())
    document["task"] = {"name": "cola+ner", "kind": "several", "pooling": pooling, "tasks": tasks}
    (checkpoint / "config.json").write_text(json.dumps(document))
    found = run(export_onnx(checkpoint, tmp_path / "onnx"), **batch((5, 11), 2))
    assert found.keys() == {"last_hidden_state", "cola_logits", "ner_logits"}
    hidden = found["last_hidden_state"]
    lengths = (5, 11)
    vectors = {
        "first": hidden[:, 0],
        "mean": torch.stack([hidden[row, :length].mean(0) for row, length in enumerate(lengths)]),
        "last": torch.stack([hidden[row, length - 1] for row, length in enumerate(lengths)]),
    }[pooling]
    if pooling == "first" and pooler:
        vectors = model.pooled(vectors)
    with torch.no_grad():
        for name, inputs in (("cola", vectors), ("ner", hidden)):
            expected = heads[name].eval()(inputs)
            torch.testing.assert_close(found[f"{name}_logits"], expected, rtol=1e-5, atol=1e-5)
    assert "not part of this folder" in (export(checkpoint, tmp_path / "theirs") / "README.md").read_text()
    assert "not part of this folder" not in (tmp_path / "onnx" / "README.md").read_text()


def test_the_folder_is_enough_to_read_text(tmp_path: Path) -> None:
    folder = export_onnx(encoder_checkpoint(tmp_path, **BERT), tmp_path / "onnx").parent
    onnx.checker.check_model(folder / "model.onnx", full_check=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = ["The man saw the book.", "他昨天买了三本书"]
    found = run(folder / "model.onnx", **tokenizer(texts, padding=True, return_tensors="np"))
    alone = run(folder / "model.onnx", **tokenizer(texts[1:], return_tensors="np"))
    torch.testing.assert_close(found["pooler_output"][1:], alone["pooler_output"], rtol=1e-4, atol=1e-5)
    card = (folder / "README.md").read_text()
    assert "library_name: onnx" in card
    assert "last_hidden_state, logits, pooler_output, sentence_logits = model.run" in card


def test_what_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    causal = random_checkpoint(tmp_path / "causal", **OURS_GPT2)
    with pytest.raises(ValueError, match="ONNX is written of encoders: the family is gpt2, which is none"):
        export_onnx(causal, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ValueError, match="pip install onnx"):
        export_onnx(causal, tmp_path / "out")
