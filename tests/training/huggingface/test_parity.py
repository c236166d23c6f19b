"""Logits, loss and every gradient are those of transformers, in both directions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tests.training.huggingface.parity import (
    VOCABULARY,
    change_settings,
    compare,
    exported,
    imported,
    random_checkpoint,
    randomize,
    tokens,
)
from training.checkpoints import load_model
from training.config import RopeScaling
from training.config.generation import GenerationConfig
from training.generation import Generator
from training.models.huggingface import export, import_model

GPT2 = {"n_layer": 2, "n_head": 4, "n_embd": 32, "n_positions": 40}
LLAMA = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32, "intermediate_size": 56}
SHARED = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {"rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0, "original_max_position_embeddings": 16}


def random_theirs(kind: Any, config: Any) -> Any:
    model = kind(config)
    randomize(model)
    return model


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": False, "n_inner": 56, "layer_norm_epsilon": 1e-3},
        {"activation_function": "gelu"},
        {"activation_function": "relu", "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.2},
    ],
    ids=["usual", "untied", "gelu", "relu"],
)
def test_parity_gpt2_imported(changes: dict[str, Any], tmp_path: Path) -> None:
    theirs = random_theirs(GPT2LMHeadModel, GPT2Config(**{**GPT2, **SHARED, **changes}))
    compare(imported(theirs, tmp_path), theirs, tokens(40))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_key_value_heads": 2, "rope_parameters": LLAMA3, "max_position_embeddings": 64},
        {"num_key_value_heads": 1, "head_dim": 6, "rope_parameters": {**LLAMA3, "rope_type": "linear"}},
        {"rope_parameters": YARN, "max_position_embeddings": 64, "tie_word_embeddings": True},
        {"rope_parameters": {**YARN, "beta_fast": 4.0, "beta_slow": 0.5}, "head_dim": 16},
        {"attention_bias": True, "rms_norm_eps": 1e-3, "num_key_value_heads": 2},
        {"attention_bias": True, "mlp_bias": True},
    ],
    ids=["usual", "gqa-llama3", "mqa-linear", "yarn-tied", "yarn-betas", "attention-bias", "all-biases"],
)
def test_parity_llama_imported(changes: dict[str, Any], tmp_path: Path) -> None:
    theirs = random_theirs(LlamaForCausalLM, LlamaConfig(**{**LLAMA, **SHARED, **changes}))
    compare(imported(theirs, tmp_path), theirs, tokens(40))


@pytest.mark.parametrize("scaling", [LLAMA3, YARN, {"rope_type": "linear", "rope_theta": 50.0, "factor": 2.0}])
def test_parity_llama_imported_with_the_keys_of_old_versions(scaling: dict[str, Any], tmp_path: Path) -> None:
    config = LlamaConfig(**LLAMA, **SHARED, rope_parameters=dict(scaling), max_position_embeddings=64)
    theirs = random_theirs(LlamaForCausalLM, config)
    old = {("type" if key == "rope_type" else key): value for key, value in scaling.items() if key != "rope_theta"}
    ours = imported(theirs, tmp_path, rope_parameters=None, rope_theta=scaling["rope_theta"], rope_scaling=old)
    assert ours.config.rope_scaling is not None
    compare(ours, theirs, tokens(40))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True, "num_key_value_heads": 4, "head_dim": 8},
        {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 0},
        {
            "use_sliding_window": True,
            "sliding_window": 7,
            "layer_types": ["sliding_attention", "full_attention"],
            "attention_bias": True,
        },
    ],
    ids=["usual", "tied", "windows", "every-second-window"],
)
def test_parity_qwen3_imported(changes: dict[str, Any], tmp_path: Path) -> None:
    settings = {**LLAMA, **SHARED, "num_key_value_heads": 2, "head_dim": 16, "rms_norm_eps": 1e-5, **changes}
    theirs = random_theirs(Qwen3ForCausalLM, Qwen3Config(**settings))
    ours = imported(theirs, tmp_path)
    compare(ours, theirs, tokens(40))
    if "sliding_window" in changes:
        assert ours.config.window == 7
        assert ours.config.global_every == (2 if "layer_types" in changes else 0)


OURS_GPT2: dict[str, Any] = {
    "layers": 2,
    "heads": 4,
    "width": 32,
    "context_length": 48,
    "positions": "learned",
    "norm": "layernorm",
    "norm_epsilon": 1e-5,
    "mlp": "gelu_tanh",
    "qk_norm": "none",
    "bias": "all",
    "tied_embeddings": True,
    "dropout": 0.1,
}
OURS_LLAMA: dict[str, Any] = {
    "layers": 2,
    "heads": 4,
    "width": 32,
    "context_length": 48,
    "mlp": "swiglu",
    "qk_norm": "none",
    "kv_heads": 2,
}
OURS_QWEN3: dict[str, Any] = {**OURS_LLAMA, "qk_norm": "gains", "head_width": 16}
EXPORTED = {
    "gpt2": [
        OURS_GPT2,
        {**OURS_GPT2, "bias": "none", "mlp": "relu2", "tied_embeddings": False},
        {**OURS_GPT2, "bias": "qkv", "mlp": "gelu", "mlp_width": 40, "window": 48},
        {**OURS_GPT2, "initialization": "mup", "mup_base_width": 8, "mup_base_layers": 1},
    ],
    "llama": [
        OURS_LLAMA,
        {**OURS_LLAMA, "kv_heads": 1, "rope_scaling": RopeScaling("llama3", 4.0, 16), "tied_embeddings": True},
        {**OURS_LLAMA, "bias": "qkv", "rope_scaling": RopeScaling("yarn", 4.0, 16), "head_width": 16},
        {**OURS_LLAMA, "bias": "all", "rope_scaling": RopeScaling("ntk", 4.0), "rope_theta": 300.0},
        {**OURS_LLAMA, "rope_scaling": RopeScaling("linear", 2.0), "initialization": "mup", "mup_base_head_width": 2},
    ],
    "qwen3": [
        OURS_QWEN3,
        {**OURS_QWEN3, "window": 7, "global_every": 2, "layers": 4},
        {**OURS_QWEN3, "window": 7, "bias": "qkv", "heads": 5, "kv_heads": 1, "tied_embeddings": True},
    ],
}


def check_export(family: str, config: dict[str, Any], folder: Path) -> None:
    checkpoint = random_checkpoint(folder, **config)
    ours, _ = load_model(checkpoint)
    theirs = exported(checkpoint, folder / "theirs")
    assert theirs.config.model_type == family
    if config.get("initialization") == "mup":  # its factor is part of a gain there: that gradient differs by it
        torch.testing.assert_close(theirs(tokens(48)).logits, ours(tokens(48)), rtol=1e-5, atol=2e-5)
    else:
        compare(ours, theirs, tokens(48))

    generator = Generator.load(checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(folder / "theirs")
    for text in ("The man saw the book.", " 他昨天买了三本书，", "el niño\n\n<|endoftext|>  x 👩‍👩‍👧"):
        assert tokenizer(text)["input_ids"] == generator.encode(text)
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id) == (0, 0, 0)
    assert tokenizer.model_max_length == 48

    prompt = tokenizer(tokenizer.bos_token + "The women", return_tensors="pt")
    whole = theirs.generate(**prompt, max_new_tokens=20)[0].tolist()
    ids = list(generator.token_ids(generator.encode("The women"), GenerationConfig(20, temperature=0)))
    new = whole[prompt["input_ids"].shape[1] :]
    assert ids == (new[: new.index(0)] if 0 in new else new)
    assert len(set(ids)) > 1


@pytest.mark.parametrize("config", EXPORTED["gpt2"])
def test_parity_gpt2_exported(config: dict[str, Any], tmp_path: Path) -> None:
    check_export("gpt2", config, tmp_path)


@pytest.mark.parametrize("config", EXPORTED["llama"])
def test_parity_llama_exported(config: dict[str, Any], tmp_path: Path) -> None:
    check_export("llama", config, tmp_path)


@pytest.mark.parametrize("config", EXPORTED["qwen3"])
def test_parity_qwen3_exported(config: dict[str, Any], tmp_path: Path) -> None:
    check_export("qwen3", config, tmp_path)


def test_parity_gpt2_without_the_prefix_and_with_stored_masks(tmp_path: Path) -> None:
    """As the first published files of GPT-2 are."""
    theirs = random_theirs(GPT2LMHeadModel, GPT2Config(**GPT2, **SHARED))
    trunk = theirs.transformer
    trunk.save_pretrained(tmp_path / "theirs")
    from safetensors.torch import load_file, save_file

    weights = load_file(tmp_path / "theirs" / "model.safetensors")
    assert "wte.weight" in weights
    weights |= {f"h.{layer}.attn.bias": torch.ones(1, 1, 40, 40).tril() for layer in range(2)}
    save_file(weights, tmp_path / "theirs" / "model.safetensors")
    change_settings(tmp_path / "theirs", architectures=["GPT2LMHeadModel"])
    ours, _ = load_model(import_model(tmp_path / "theirs", tmp_path / "ours"))
    compare(ours, theirs, tokens(40))


def test_parity_llama_in_half_precision_and_several_files(tmp_path: Path) -> None:
    theirs = random_theirs(LlamaForCausalLM, LlamaConfig(**LLAMA, **SHARED)).to(torch.bfloat16)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="30KB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 2
    ours, _ = load_model(import_model(tmp_path / "theirs", tmp_path / "ours"))
    assert {parameter.dtype for parameter in ours.parameters()} == {torch.float32}
    # Read again, since the frequencies of the first are in half precision, too.
    compare(ours, LlamaForCausalLM.from_pretrained(tmp_path / "theirs", dtype=torch.float32), tokens(40))


def test_parity_llama_exported_in_several_files(tmp_path: Path) -> None:
    checkpoint = random_checkpoint(tmp_path, **OURS_LLAMA)
    theirs = exported(checkpoint, tmp_path / "theirs", shard_bytes=20_000)
    sizes = [path.stat().st_size for path in (tmp_path / "theirs").glob("*.safetensors")]
    assert len(sizes) > 3
    # The embedding of 51,200 bytes is larger than a file may be, and lies in one alone.
    assert sorted(sizes)[-3] < 20_000 + 2_000
    compare(load_model(checkpoint)[0], theirs, tokens(48))
    again = import_model(tmp_path / "theirs", tmp_path / "again")
    single = export(checkpoint, tmp_path / "single")
    assert (again / "model.safetensors").read_bytes() == (
        import_model(single, tmp_path / "once") / "model.safetensors"
    ).read_bytes()
