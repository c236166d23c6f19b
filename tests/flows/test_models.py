"""`headrace export` and `headrace import`, and a model that goes out and comes back and writes the same text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel
from typer.testing import CliRunner, Result

from flows.cli import app
from tests.training.huggingface.encoders import encoder_checkpoint
from tests.training.huggingface.test_parity_bert import OURS as BERT
from tests.training.small_models import tiny_checkpoint, tiny_tokenizer
from training.checkpoints import TrainerState, save
from training.config import ModelConfig
from training.models.transformer import Transformer


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A tiny GPT-2 of random weights, with a tokenizer."""
    fields = {**ModelConfig.expand("gpt2"), "layers": 2, "heads": 2, "width": 32, "context_length": 16}
    tokenizer = tiny_tokenizer()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    torch.manual_seed(1)
    model = Transformer(ModelConfig(**fields), tokenizer.get_vocab_size())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8)
    return save(tmp_path / "run", model, TrainerState(3, {}, {}, {}), {"end_of_text": 0}, tmp_path / "tokenizer.json")


def headrace(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def answer(*arguments: object) -> dict[str, Any]:
    result = headrace(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_model_goes_out_and_comes_back(checkpoint: Path, tmp_path: Path) -> None:
    exported = answer("export", checkpoint, tmp_path / "theirs")
    assert exported["checkpoint"] == str(checkpoint)
    assert exported["files"]["model.safetensors"] == (tmp_path / "theirs" / "model.safetensors").stat().st_size
    imported = answer("import", tmp_path / "theirs", "--name", "mine", "--workspace", tmp_path)
    assert imported["checkpoint"] == str(tmp_path / "imported" / "mine" / "step-00000000")
    assert imported["architecture"] == "GPT2LMHeadModel"
    assert imported["tokenizer"]
    texts = [
        answer("generate", "The man", "--model", model, "--seed", 4)["continuation"]
        for model in (checkpoint, imported["checkpoint"])
    ]
    assert texts[0] == texts[1] != ""


def test_people_are_told_what_comes_next(checkpoint: Path, tmp_path: Path) -> None:
    shown = headrace("export", checkpoint, tmp_path / "theirs", "--shard-gigabytes", 0.001).stdout
    assert "AutoModelForCausalLM.from_pretrained" in shown
    shown = headrace("import", tmp_path / "theirs", "--workspace", tmp_path).stdout
    assert f"--model {tmp_path / 'imported' / 'theirs' / 'step-00000000'}" in shown
    (tmp_path / "theirs" / "tokenizer.json").unlink()
    shown = headrace("import", tmp_path / "theirs", "--workspace", tmp_path, "--name", "mute").stdout
    assert "without a tokenizer" in shown


def test_an_encoder_goes_out_and_comes_back(tmp_path: Path) -> None:
    checkpoint = encoder_checkpoint(tmp_path / "run", **BERT)
    exported = answer("export", checkpoint, tmp_path / "theirs")
    assert (exported["architecture"], exported["auto_class"]) == ("BertForPreTraining", "AutoModelForPreTraining")
    assert "generation_config.json" not in exported["files"]
    imported = answer("import", tmp_path / "theirs", "--workspace", tmp_path)
    assert (imported["architecture"], imported["untrained"]) == ("BertForPreTraining", [])
    weights = Path(imported["checkpoint"]) / "model.safetensors"
    assert weights.read_bytes() == (checkpoint / "model.safetensors").read_bytes()
    shown = headrace("import", tmp_path / "theirs", "--name", "again", "--workspace", tmp_path).stdout
    assert "nothing for `headrace generate`" in shown
    shown = headrace("export", checkpoint, tmp_path / "roberta", "--family", "roberta")
    assert shown.exit_code == 2
    assert "RobertaForMaskedLM cannot hold this model: token_types is 2, must be 0 or 1; pooler is true" in shown.stderr


def test_a_head_that_was_drawn_is_named(tmp_path: Path) -> None:
    BertModel(BertConfig(vocab_size=9, hidden_size=16, num_attention_heads=2, num_hidden_layers=1)).save_pretrained(
        tmp_path / "bare"
    )
    shown = headrace("import", tmp_path / "bare", "--workspace", tmp_path).stdout
    assert "(BertModel)" in shown
    assert "the files have no head: newly drawn are transform.dense.weight, transform.dense.bias" in shown


def test_what_cannot_be_done_is_said(checkpoint: Path, tmp_path: Path) -> None:
    for arguments, message in (
        (("export", tmp_path / "out", "--workspace", tmp_path), "holds no trained model yet"),
        (("export", tmp_path, tmp_path / "out"), "is no checkpoint folder"),
        (("export", 1, 2, 3), "expected [MODEL] FOLDER, got 3 arguments"),
        (("export", checkpoint, tmp_path), "exists already and is not an empty folder"),
        (("export", checkpoint, tmp_path / "out", "--family", "llama"), "positions is learned, must be rotary"),
        (("export", tiny_checkpoint(tmp_path / "nano"), tmp_path / "out"), "qk_norm is plain, must be none"),
        (("import", tmp_path / "nowhere", "--workspace", tmp_path), "config.json: cannot be read"),
        (("import", checkpoint, "--workspace", tmp_path), "architectures: missing"),
        (("import", checkpoint, "--name", "../up", "--workspace", tmp_path), "must be the name of a folder"),
    ):
        result = headrace(*arguments)
        assert result.exit_code == 2, arguments
        assert message in result.stderr
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "imported").exists()
