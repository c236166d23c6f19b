"""`headrace export` and `headrace import`, and a model that goes out and comes back and writes the same text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertModel
from typer.testing import CliRunner, Result

from flows.cli import app
from flows.serving import load_service
from tests.training.adapters.test_merging import tuned
from tests.training.huggingface.encoders import encoder_checkpoint
from tests.training.huggingface.test_parity_bert import OURS as BERT
from tests.training.models.test_llama2c import write_tokenizer, write_weights
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


def test_a_model_goes_out_as_gguf(checkpoint: Path, tmp_path: Path) -> None:
    exported = answer("export", checkpoint, tmp_path / "small", "--format", "gguf", "--numbers", "q8_0")
    assert exported["format"] == "gguf"
    assert exported["model"] == str(tmp_path / "small" / "small-Q8_0.gguf")
    assert exported["files"].keys() == {"README.md", "small-Q8_0.gguf"}
    assert Path(exported["model"]).read_bytes()[:4] == b"GGUF"
    shown = headrace("export", checkpoint, tmp_path / "again", "--format", "gguf").stdout
    assert f"llama-cli -m {tmp_path / 'again' / 'again-F16.gguf'}" in shown


def test_an_encoder_goes_out_as_onnx(tmp_path: Path) -> None:
    checkpoint = encoder_checkpoint(tmp_path / "run", **BERT)
    exported = answer("export", checkpoint, tmp_path / "onnx", "--format", "onnx")
    assert exported["model"] == str(tmp_path / "onnx" / "model.onnx")
    assert {"model.onnx", "tokenizer.json", "README.md", "config.json"} <= exported["files"].keys()
    shown = headrace("export", checkpoint, tmp_path / "again", "--format", "onnx").stdout
    assert "InferenceSession(" in shown


def test_a_sentence_encoder_comes_in_and_goes_out(tmp_path: Path) -> None:
    checkpoint = encoder_checkpoint(tmp_path / "run", **BERT)
    answer("export", checkpoint, tmp_path / "theirs")
    modules = [{"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"}]
    modules.append({"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"})
    (tmp_path / "theirs" / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "theirs" / "1_Pooling").mkdir()
    pooling = tmp_path / "theirs" / "1_Pooling" / "config.json"
    pooling.write_text(json.dumps({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}))
    tokenizer = tmp_path / "theirs" / "tokenizer.json"
    cuts = {"max_length": 8, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    tokenizer.write_text(json.dumps({**json.loads(tokenizer.read_text()), "truncation": cuts}))
    imported = answer("import", tmp_path / "theirs", "--workspace", tmp_path)
    assert imported["pooling"] == {"mode": "first", "normalize": False}
    facts = json.loads(Path(imported["checkpoint"], "config.json").read_text())
    assert (facts["objective"], facts["end_of_text"]) == ("masked", facts["special_tokens"]["separator"])
    assert json.loads(Path(imported["checkpoint"], "tokenizer.json").read_text())["truncation"] is None
    shown = headrace("import", tmp_path / "theirs", "--workspace", tmp_path, "--name", "again").stdout
    assert "a sentence encoder: the vector of a text is first of its tokens" in shown
    exported = answer("export", imported["checkpoint"], tmp_path / "back")
    assert {"modules.json", "1_Pooling/config.json"} <= exported["files"].keys()
    assert json.loads((tmp_path / "back" / "1_Pooling" / "config.json").read_text())["pooling_mode_cls_token"]
    for broken, message in (
        ({"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True}, "cls_token, max_tokens is not supported"),
        ({"pooling_mode": "attention"}, "the pooling attention is not supported"),
    ):
        pooling.write_text(json.dumps(broken))
        result = headrace("import", tmp_path / "theirs", "--workspace", tmp_path, "--name", "broken")
        assert (result.exit_code, message in result.stderr) == (2, True)
    modules[1]["type"] = "sentence_transformers.models.Dense"
    (tmp_path / "theirs" / "modules.json").write_text(json.dumps(modules))
    result = headrace("import", tmp_path / "theirs", "--workspace", tmp_path, "--name", "broken")
    assert (result.exit_code, "a module 'Dense' at place 1 is not supported" in result.stderr) == (2, True)


def test_a_file_of_llama2c_comes_in(tmp_path: Path) -> None:
    write_weights(tmp_path / "story.bin", True)
    write_tokenizer(tmp_path / "tok.bin")
    told = answer("import", tmp_path / "story.bin", "--tokenizer", tmp_path / "tok.bin", "--workspace", tmp_path)
    assert told["checkpoint"] == str(tmp_path / "imported" / "story" / "step-00000000")
    assert (told["architecture"], told["writes_text"], told["tokenizer"]) == ("llama2.c", True, True)
    assert answer("generate", "ab", "--model", told["checkpoint"], "--tokens", 4)["continuation"] != ""


def test_a_chat_template_comes_in_and_goes_out(checkpoint: Path, tmp_path: Path) -> None:
    answer("export", checkpoint, tmp_path / "theirs")
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    (tmp_path / "theirs" / "chat_template.jinja").write_text(template)
    imported = Path(answer("import", tmp_path / "theirs", "--workspace", tmp_path)["checkpoint"])
    assert json.loads((imported / "config.json").read_text())["chat_template"] == template
    answer("export", imported, tmp_path / "back")
    assert AutoTokenizer.from_pretrained(tmp_path / "back").chat_template == template


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
        (("export", checkpoint, tmp_path / "out", "--format", "mlx"), "must be transformers, gguf, onnx"),
        (("export", checkpoint, tmp_path / "out", "--numbers", "f16"), "--numbers belongs to --format gguf"),
        (("export", checkpoint, tmp_path / "out", "--format", "gguf", "--numbers", "q3"), "'q3' is unknown"),
        (("export", checkpoint, tmp_path / "out", "--format", "onnx"), "the family is gpt2, which is none"),
        (("import", tmp_path / "nowhere", "--workspace", tmp_path), "config.json: cannot be read"),
        (("import", checkpoint, "--tokenizer", "x", "--workspace", tmp_path), "belongs to a .bin of llama2.c"),
        (("import", checkpoint / "model.safetensors", "--workspace", tmp_path), "no model of llama2.c"),
        (("import", checkpoint, "--workspace", tmp_path), "architectures: missing"),
        (("import", checkpoint, "--name", "../up", "--workspace", tmp_path), "must be the name of a folder"),
    ):
        result = headrace(*arguments)
        assert result.exit_code == 2, arguments
        assert message in result.stderr
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "imported").exists()


def test_an_adapter_becomes_plain_weights(tmp_path: Path) -> None:
    source = tuned(tmp_path, "lora", targets=["all"])
    facts = answer("merge", source, tmp_path / "plain")
    assert (facts["method"], facts["folder"]) == ("lora", str(tmp_path / "plain"))
    assert facts["files"]["model.safetensors"] == (tmp_path / "plain" / "model.safetensors").stat().st_size
    again = headrace("merge", tmp_path / "plain", tmp_path / "more")
    assert (again.exit_code, "its weights are plain already" in again.stderr) == (2, True)


def test_a_folder_of_transformers_writes_and_is_imported_once(checkpoint: Path, tmp_path: Path) -> None:
    answer("export", checkpoint, tmp_path / "theirs")
    ours = answer("generate", "The man", "--model", checkpoint, "--seed", 4)
    asked = ("generate", "The man", "--model", tmp_path / "theirs", "--seed", 4, "--workspace", tmp_path / "work")
    theirs = answer(*asked)
    assert theirs["continuation"] == ours["continuation"] != ""
    made = Path(theirs["model"])
    assert made.is_relative_to(tmp_path / "work" / "imported")
    before = (made / "model.safetensors").stat().st_mtime_ns
    answer(*asked, "--draft", tmp_path / "theirs")
    assert (made / "model.safetensors").stat().st_mtime_ns == before
    service = load_service(str(tmp_path / "theirs"), tmp_path / "work")
    assert service.name == "theirs"
    plain = tmp_path / "plain"
    plain.mkdir()
    wrong = headrace("generate", "The man", "--model", plain)
    assert (wrong.exit_code, "is no checkpoint folder" in wrong.stderr) == (2, True)
