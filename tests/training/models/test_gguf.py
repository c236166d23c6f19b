"""A GGUF file holds the tensors, the metadata and the tokenizer of the checkpoint: read by gguf and by transformers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from pipeline.tokens.tokenizer import PATTERNS, train_tokenizer
from tests.training.huggingface.encoders import encoder_checkpoint
from tests.training.huggingface.parity import VOCABULARY, random_checkpoint, tokens
from tests.training.huggingface.test_parity import OURS_GPT2, OURS_LLAMA, OURS_QWEN3
from tests.training.huggingface.test_parity_bert import OURS as BERT
from tests.training.small_models import TEXT
from training.checkpoints import load_model
from training.config import RopeScaling
from training.models.gguf import export_gguf
from training.models.gguf_vocabulary import EXPRESSIONS

# Sizes that transformers takes for granted in a GGUF file, whatever it says.
GPT2 = {**OURS_GPT2, "context_length": 1024}
QWEN3 = {**OURS_QWEN3, "head_width": 128}
UNTIED = {**OURS_LLAMA, "bias": "none", "tied_embeddings": False, "head_width": 16}


def contents(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray], dict[str, str]]:
    """Metadata, tensors as float32 and their types."""
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    values = {tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}
    return fields, values, kinds


@pytest.mark.parametrize(
    "config",
    [
        GPT2,
        {**GPT2, "bias": "none", "tied_embeddings": False, "initialization": "mup", "mup_base_width": 8},
        OURS_LLAMA,
        {**UNTIED, "kv_heads": 1, "rope_theta": 500.0},
        {**OURS_LLAMA, "rope_scaling": RopeScaling("ntk", 4.0), "initialization": "mup", "mup_base_width": 64},
        QWEN3,
    ],
    ids=["gpt2", "gpt2-untied-mup", "llama", "llama-untied", "llama-ntk-mup", "qwen3"],
)
def test_transformers_reads_the_same_model(config: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = random_checkpoint(tmp_path, **config)
    path = export_gguf(checkpoint, tmp_path / "out", "f32")
    auto = transformers.AutoModelForCausalLM
    theirs, info = auto.from_pretrained(path.parent, gguf_file=path.name, output_loading_info=True)
    assert not any(info.values())
    ours, _ = load_model(checkpoint)
    ids = tokens(40)
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs.eval()(ids).logits, rtol=1e-4, atol=3e-5)
    text = " ".join(TEXT)
    expected = Tokenizer.from_file(str(checkpoint / "tokenizer.json")).encode(text).ids
    read = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    assert read(text, add_special_tokens=False)["input_ids"] == expected
    assert (read.bos_token_id, read.eos_token_id) == (0, 0)


def test_the_tensors_and_metadata_of_a_llama(tmp_path: Path) -> None:
    scaling = RopeScaling("llama3", 4.0, 16)
    checkpoint = random_checkpoint(tmp_path, **{**OURS_LLAMA, "bias": "qkv", "rope_scaling": scaling})
    model, config = load_model(checkpoint)
    fields, values, kinds = contents(export_gguf(checkpoint, tmp_path / "My model", "f32"))
    expected = {
        "general.architecture": "llama",
        "general.name": "My model",
        "llama.block_count": 2,
        "llama.context_length": 48,
        "llama.embedding_length": 32,
        "llama.feed_forward_length": config.hidden_width,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.vocab_size": VOCABULARY,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
    }
    assert {name: fields[name] for name in expected} == expected
    assert len(fields["tokenizer.ggml.tokens"]) == VOCABULARY
    assert set(kinds.values()) == {"F32"}
    known = set(gguf.MODEL_TENSORS[gguf.MODEL_ARCH.LLAMA])
    names = {gguf.TENSOR_NAMES[tensor].format(bid=layer) for tensor in known for layer in range(2)}
    assert {name.rsplit(".", 1)[0] for name in values} <= names
    # llama.cpp turns neighbours: row 2i of a head is our row i, row 2i + 1 our row i + K / 2.
    weight = model.blocks[1].attention.qkv.weight.detach().numpy()
    for head, part in ((3, "q"), (1, "k")):
        ours = weight[8 * head :][:8] if part == "q" else weight[32 + 8 * head :][:8]
        theirs = values[f"blk.1.attn_{part}.weight"][8 * head :][:8]
        np.testing.assert_array_equal(theirs, ours[[0, 4, 1, 5, 2, 6, 3, 7]])
    np.testing.assert_array_equal(values["blk.1.attn_v.weight"], weight[48:])
    # What stretches the positions divides the plain frequencies.
    plain = 10_000.0 ** (-np.arange(0, 8, 2) / 8)
    turns = 16 * plain / (2 * np.pi)
    kept = np.clip((turns - 1.0) / 3.0, 0, 1)
    np.testing.assert_allclose(values["rope_freqs.weight"], 1 / (kept + (1 - kept) / 4), rtol=1e-6)


@pytest.mark.parametrize(
    ("numbers", "largest"), [("f16", 2**-11), ("q8_0", 1 / 254 + 2**-11), ("q4_0", 1 / 8 + 2**-11)]
)
def test_fewer_bits_are_near_and_smaller(numbers: str, largest: float, tmp_path: Path) -> None:
    config = {**UNTIED, "mlp_width": 40, "kv_heads": None}
    checkpoint = random_checkpoint(tmp_path, **config)
    whole = contents(export_gguf(checkpoint, tmp_path / "f32", "f32"))[1]
    path = export_gguf(checkpoint, tmp_path / "less", numbers)
    assert path.name == f"less-{numbers.upper()}.gguf"
    fields, values, kinds = contents(path)
    assert values.keys() == whole.keys()
    for name, value in values.items():
        if value.ndim == 1:
            assert kinds[name] == "F32"
            np.testing.assert_array_equal(value, whole[name])
            continue
        is_odd = value.shape[1] % 32 > 0  # blocks of 32 do not fit the rows of 40
        assert is_odd == ("ffn_down" in name)
        assert kinds[name] == ("F16" if is_odd else numbers.upper())
        blocks = whole[name].reshape(-1, 8 if is_odd else 32)
        error = np.abs(values[name].reshape(blocks.shape) - blocks).max(1)
        assert (error <= np.abs(blocks).max(1) * largest * 1.01).all()
        assert error.max() > 0
    assert fields["general.file_type"] == {"f16": 1, "q8_0": 7, "q4_0": 2}[numbers]


@pytest.mark.parametrize("pattern", sorted(PATTERNS))
def test_every_tokenizer_of_the_pipeline_has_its_expression(pattern: str, tmp_path: Path) -> None:
    assert PATTERNS[pattern] in EXPRESSIONS
    checkpoint = random_checkpoint(tmp_path, **OURS_LLAMA)
    (checkpoint / "tokenizer.json").write_bytes(train_tokenizer(TEXT * 5, VOCABULARY, pattern)[0])  # type: ignore[arg-type]
    fields, _, _ = contents(export_gguf(checkpoint, tmp_path / "out"))
    named = {"gpt2": "gpt-2", "cl100k": "dbrx", "qwen2": "qwen2", "o200k": "gpt-4o"}
    assert fields["tokenizer.ggml.pre"] == named[pattern]
    kinds = fields["tokenizer.ggml.token_type"]
    assert kinds[:5] == [gguf.TokenType.CONTROL] * 5
    assert kinds[-1] in (gguf.TokenType.NORMAL, gguf.TokenType.UNUSED)
    assert fields["tokenizer.ggml.padding_token_id"] == 1


def test_what_gguf_cannot_hold_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(message: str, checkpoint: Path, *arguments: Any) -> None:
        with pytest.raises(ValueError, match=message):
            export_gguf(checkpoint, tmp_path / "out", *arguments)
        assert not (tmp_path / "out").exists()

    llama = random_checkpoint(tmp_path / "llama", **OURS_LLAMA)
    refused("numbers: 'q5' is unknown; there are f32, f16, q8_0, q4_0", llama, "q5")
    refused("the family is bert, must be gpt2, llama, qwen3", encoder_checkpoint(tmp_path / "bert", **BERT))
    for config, message in (
        ({**OURS_GPT2, "mlp": "relu"}, "mlp is relu, must be gelu_tanh"),
        ({**OURS_QWEN3, "window": 8}, "window is 8, must be null"),
        ({**OURS_QWEN3, "bias": "qkv"}, "bias is qkv, must be none"),
    ):
        refused(message, random_checkpoint(tmp_path / message, **config))
    words = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(llama / "tokenizer.json"))
    refused("GGUF has no name for how this tokenizer cuts a text", llama)
    Tokenizer(models.WordLevel({"a": 0}, "a")).save(str(llama / "tokenizer.json"))
    refused("cannot hold a tokenizer of type WordLevel", llama)
    (llama / "tokenizer.json").unlink()
    refused("has no tokenizer.json", llama)
    monkeypatch.setitem(sys.modules, "gguf", None)
    refused("pip install gguf", llama)
