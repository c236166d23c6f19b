from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from tests.training.huggingface.encoders import encoder_checkpoint
from tests.training.huggingface.parity import random_checkpoint
from tests.training.huggingface.test_parity import OURS_GPT2, OURS_LLAMA, OURS_QWEN3
from tests.training.huggingface.test_parity_bert import OURS as OURS_BERT
from tests.training.huggingface.test_parity_electra import BOTH as OURS_ELECTRA
from tests.training.huggingface.test_parity_electra import GENERATOR as OURS_GENERATOR
from tests.training.huggingface.test_parity_modernbert import OURS as OURS_MODERNBERT
from tests.training.huggingface.test_parity_roberta import OURS as OURS_ROBERTA
from training.checkpoints import CheckpointError
from training.config import ModelConfig
from training.config.presets import PRESETS
from training.models.huggingface import export, family_for
from training.models.huggingface.family import effective_window


def test_the_family_is_found_from_the_shape() -> None:
    for name, config in (("gpt2", OURS_GPT2), ("llama", OURS_LLAMA), ("qwen3", OURS_QWEN3)):
        assert family_for(ModelConfig(**config)).name == name


@pytest.mark.parametrize("preset", sorted(PRESETS.keys() - {"nano"}))
def test_the_published_presets_have_their_family(preset: str) -> None:
    config = ModelConfig(**ModelConfig.expand(preset))
    assert family_for(config).name == preset.split("-")[0]


@pytest.mark.parametrize(
    ("family", "base", "change", "named"),
    [
        ("gpt2", OURS_GPT2, {"kv_heads": 2}, "kv_heads is 2, must be 4 (as many as heads)"),
        ("gpt2", OURS_GPT2, {"head_width": 16}, "head_width is 16, must be width / heads"),
        ("gpt2", OURS_GPT2, {"window": 8}, "window is 8, must be null"),
        ("gpt2", OURS_GPT2, {"norm": "rmsnorm"}, "norm is rmsnorm, must be layernorm"),
        ("gpt2", OURS_GPT2, {"mlp": "swiglu"}, "mlp is swiglu, must be gelu_tanh or gelu or relu or relu2"),
        ("gpt2", OURS_GPT2, {"norm_position": "post"}, "norm_position is post, must be pre"),
        ("gpt2", OURS_GPT2, {"attention": "bidirectional"}, "attention is bidirectional, must be causal"),
        ("gpt2", OURS_GPT2, {"embedding_norm": True}, "embedding_norm is true, must be false"),
        ("llama", OURS_LLAMA, {"layer_groups": 1}, "layer_groups is 1, must be 2 (every layer has weights of its own)"),
        ("llama", OURS_LLAMA, {"positions": "alibi"}, "positions is alibi, must be rotary"),
        ("llama", OURS_LLAMA, {"mlp": "relu2"}, "mlp is relu2, must be swiglu"),
        ("llama", OURS_LLAMA, {"bigram_buckets": 64}, "bigram_buckets is 64, must be 0"),
        ("llama", OURS_LLAMA, {"heads": 6, "head_width": 8}, "width is 32, must be a multiple of heads (6)"),
        ("llama", OURS_LLAMA, {"window": 8}, "window is 8, must be null"),
        ("llama", OURS_LLAMA, {"qk_norm": "plain"}, "qk_norm is plain, must be none"),
        ("qwen3", OURS_QWEN3, {"qk_norm": "plain"}, "qk_norm is plain, must be gains"),
        ("qwen3", OURS_QWEN3, {"bias": "all"}, "bias is all, must be none or qkv"),
        ("llama", OURS_LLAMA, {"token_types": 2}, "token_types is 2, must be 0"),
        ("llama", OURS_LLAMA, {"head": "transform"}, "head is transform, must be linear"),
        ("gpt2", OURS_GPT2, {"head_bias": True}, "head_bias is true, must be false"),
        ("gpt2", OURS_GPT2, {"embedding_width": 16, "tied_embeddings": False}, "embedding_width is 16, mu"),
        (
            "qwen3",
            OURS_QWEN3,
            {"window": 8, "rope_theta_windowed": 9.0},
            "rope_theta_windowed is 9.0, must be",
        ),
        ("bert", OURS_BERT, {"attention": "causal"}, "attention is causal, must be bidirectional"),
        ("bert", OURS_BERT, {"norm_position": "pre"}, "norm_position is pre, must be post"),
        ("bert", OURS_BERT, {"kv_heads": 2}, "kv_heads is 2, must be 4 (as many as heads)"),
        ("bert", OURS_BERT, {"head": "linear"}, "head is linear, must be transform"),
        ("bert", OURS_BERT, {"sentence_classes": 3}, "sentence_classes is 3, must be 0 or 2"),
        ("bert", OURS_BERT, {"window": 8}, "window is 8, must be null"),
        ("bert", OURS_BERT, {"mlp": "relu"}, "mlp is relu, must be gelu or gelu_tanh"),
        ("roberta", OURS_ROBERTA, {"token_types": 2}, "token_types is 2, must be 0 or 1"),
        ("roberta", OURS_ROBERTA, {"mlp": "gelu_tanh"}, "mlp is gelu_tanh, must be gelu"),
        ("electra", OURS_ELECTRA, {"embedding_width": 32}, "embedding_width is 32, must be null (no projection) or "),
        (
            "electra-generator",
            OURS_GENERATOR,
            {"head": "linear", "tied_embeddings": False},
            "head is linear, must be",
        ),
        ("modernbert", OURS_MODERNBERT, {"first_norm": True}, "first_norm is true, must be false"),
        ("modernbert", OURS_MODERNBERT, {"token_types": 2}, "token_types is 2, must be 0"),
        ("modernbert", OURS_MODERNBERT, {"mlp": "swiglu"}, "mlp is swiglu, must be geglu"),
    ],
)
def test_what_a_family_cannot_hold_is_named(
    family: str, base: dict[str, Any], change: dict[str, Any], named: str
) -> None:
    with pytest.raises(ValueError, match="cannot hold this model") as error:
        family_for(ModelConfig(**{**base, **change}), family)
    assert str(error.value).split(": ", 1)[1].startswith(named)
    assert ";" not in str(error.value)


def test_all_that_stands_in_the_way_is_in_one_error(tmp_path: Path) -> None:
    config = {"layers": 2, "heads": 2, "width": 32, "context_length": 16, "bigram_buckets": 64}
    checkpoint = random_checkpoint(tmp_path, **config)
    opening = "^no family of transformers can hold this model; the nearest is llama: "
    with pytest.raises(ValueError, match=opening) as error:
        export(checkpoint, tmp_path / "theirs")
    message = str(error.value)
    for line in ("bigram_buckets is 64", "qk_norm is plain, must be none", "mlp is relu2, must be swiglu"):
        assert line in message
    assert not (tmp_path / "theirs").exists()
    assert not list(tmp_path.glob(".*"))
    with pytest.raises(ValueError, match="'opt' is unknown; there are gpt2, llama, qwen3, roberta, bert"):
        export(checkpoint, tmp_path / "theirs", "opt")


def test_a_window_as_long_as_the_context_is_none() -> None:
    assert effective_window(ModelConfig(window=256)) is None
    assert effective_window(ModelConfig(window=255)) == 255
    assert effective_window(ModelConfig(window=255, global_every=1)) is None


def test_the_files_of_an_export(tmp_path: Path) -> None:
    folder = export(random_checkpoint(tmp_path, **OURS_LLAMA), tmp_path / "deep" / "My model")
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation == {"do_sample": False, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    for fact in ("# My model\n", "| metrics.validation/loss | 3.25 |", "| tokens | 123456 |", "| vocabulary | 400 tok"):
        assert fact in card
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path: Path) -> None:
    checkpoint = random_checkpoint(tmp_path, **OURS_GPT2)
    target = tmp_path / "theirs"
    target.mkdir()
    assert export(checkpoint, target) == target  # an empty one is fine
    before = (target / "config.json").read_bytes()
    with pytest.raises(ValueError, match="exists already and is not an empty folder"):
        export(checkpoint, target)
    assert (target / "config.json").read_bytes() == before
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="exists already"):
        export(checkpoint, tmp_path / "file")


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    checkpoint = random_checkpoint(tmp_path, **OURS_GPT2)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(CheckpointError, match="theirs: cannot be written .*; nothing of it is left"):
            export(checkpoint, tmp_path / "out" / "theirs")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list((tmp_path / "out").iterdir()) == []


def test_an_export_without_a_tokenizer_has_none(tmp_path: Path) -> None:
    checkpoint = random_checkpoint(tmp_path, **OURS_GPT2)
    (checkpoint / "tokenizer.json").unlink()
    folder = export(checkpoint, tmp_path / "theirs")
    assert not list(folder.glob("tokenizer*"))


def test_a_token_for_padding_pads(tmp_path: Path) -> None:
    checkpoint = random_checkpoint(tmp_path, vocabulary_size=410, **OURS_GPT2)
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    tokenizer.add_special_tokens(["<|pad|>"])
    tokenizer.save(str(checkpoint / "tokenizer.json"))
    padding = tokenizer.token_to_id("<|pad|>")
    folder = export(checkpoint, tmp_path / "theirs")
    loaded = AutoTokenizer.from_pretrained(folder)
    assert (loaded.pad_token_id, loaded.eos_token_id) == (padding, 0)
    batch = loaded(["The", "The man saw"], padding=True)["input_ids"]
    assert len(batch[0]) == len(batch[1])
    assert padding in batch[0]
    assert json.loads((folder / "generation_config.json").read_text())["pad_token_id"] == padding
    # The model must not know of it: transformers would never train that embedding again.
    assert json.loads((folder / "config.json").read_text())["pad_token_id"] is None


def test_neither_direction_needs_transformers_or_tokenizers(tmp_path: Path) -> None:
    checkpoint = encoder_checkpoint(tmp_path, **OURS_BERT)
    script = (
        "import sys; sys.modules.update(transformers=None, tokenizers=None, huggingface_hub=None)\n"
        "from training.models.huggingface import export, import_model\n"
        "import_model(export(sys.argv[1], sys.argv[2]), sys.argv[3])"
    )
    command = [sys.executable, "-c", script, str(checkpoint), str(tmp_path / "theirs"), str(tmp_path / "again")]
    subprocess.run(command, cwd=Path(__file__).parents[3], check=True)
    again = tmp_path / "again" / "step-00000000"
    assert (again / "model.safetensors").read_bytes() == (checkpoint / "model.safetensors").read_bytes()
