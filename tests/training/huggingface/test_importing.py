from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.training.huggingface.parity import change_settings, random_checkpoint
from tests.training.huggingface.test_parity import OURS_GPT2, OURS_LLAMA, OURS_QWEN3
from training.checkpoints import describe, load_model
from training.config.generation import GenerationConfig
from training.generation import Generator
from training.models.huggingface import export, import_model


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return export(random_checkpoint(tmp_path, **OURS_LLAMA), tmp_path / "llama")


@pytest.fixture
def gpt2(tmp_path: Path) -> Path:
    return export(random_checkpoint(tmp_path, **OURS_GPT2), tmp_path / "gpt2")


def refused(folder: Path, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        import_model(folder, folder.parent / "ours")
    assert not (folder.parent / "ours").exists()


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def test_an_imported_model_writes_text(gpt2: Path, tmp_path: Path) -> None:
    checkpoint = import_model(gpt2, tmp_path / "ours")
    assert checkpoint == tmp_path / "ours" / "step-00000000"
    original = next((tmp_path / "checkpoints").iterdir())
    settings = GenerationConfig(20, temperature=0)
    text = Generator.load(checkpoint).generate("The man", settings)
    assert text == Generator.load(original).generate("The man", settings)
    facts = describe(checkpoint)
    assert facts["end_of_text"] == facts["begin_of_text"] == 0
    assert facts["imported"] == {"architecture": "GPT2LMHeadModel", "folder": "gpt2"}
    with pytest.raises(ValueError, match="holds step-00000000 already"):
        import_model(gpt2, tmp_path / "ours")


def test_texts_begin_and_end_as_config_json_says(llama: Path, tmp_path: Path) -> None:
    change_settings(llama, bos_token_id=5, eos_token_id=[7, 9])
    checkpoint = import_model(llama, tmp_path / "ours")
    assert (describe(checkpoint)["begin_of_text"], describe(checkpoint)["end_of_text"]) == (5, 7)
    again = json.loads((export(checkpoint, tmp_path / "again") / "config.json").read_text())
    assert (again["bos_token_id"], again["eos_token_id"]) == (5, 7)


def test_without_ids_in_config_json_those_of_generation_count(llama: Path, tmp_path: Path) -> None:
    change_settings(llama, bos_token_id=None, eos_token_id=None)
    (llama / "generation_config.json").write_text('{"eos_token_id": 3}')
    facts = describe(import_model(llama, tmp_path / "ours"))
    assert facts["end_of_text"] == 3
    assert "begin_of_text" not in facts


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"architectures": None}, "config.json: architectures: missing.*known are GPT2LMHeadModel, LlamaForCausalLM"),
        ({"architectures": []}, "architectures: missing"),
        ({"architectures": ["MistralForCausalLM"]}, r'architectures: \["MistralForCausalLM"\] is not supported'),
        ({"quantization_config": {"bits": 4}}, "quantized weights are not supported"),
        ({"hidden_act": "gelu"}, 'hidden_act: "gelu" is not supported; it must be "silu"'),
        ({"hidden_size": "32"}, 'hidden_size: "32" is not supported; it must be a whole number'),
        ({"hidden_size": True}, "hidden_size: true is not supported"),
        ({"num_key_value_heads": 3}, "config.json: kv_heads must divide heads"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers: 1000000000 layers, but the files hold"),
        ({"max_position_embeddings": 10**12}, "max_position_embeddings: 1000000000000 is not supported"),
        ({"rms_norm_eps": float("nan")}, "norm_epsilon must be a positive number"),
        ({"attention_bias": True}, "missing model.layers.0.self_attn.q_proj.bias"),
        ({"vocab_size": 999}, r"model.embed_tokens.weight of shape \[400, 32\] instead of \[999, 32\]"),
        ({"vocab_size": 50}, "its ids go up to .*, the model has 50 tokens: a tokenizer of another model"),
        ({"vocab_size": None}, "vocab_size: nothing is not supported"),
        ({"eos_token_id": 400}, "eos_token_id: 400 is no id below 400"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor: 0.5 is not supported; it must be 1.0"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, 'rope_scaling.rope_type: "dynamic" is not supported'),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling.factor: nothing is not supported"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0, "attention_factor": 2.0}}, "attention_factor: 2.0 is not"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0, "truncate": False}}, "truncate: false is not supported"),
        ({"rope_scaling": [1]}, "rope_scaling: .* must be an object"),
        ({"rope_parameters": {"a": {"rope_theta": 1.0}, "b": {"rope_theta": 2.0}}}, "layers that differ in their rot"),
    ],
)
def test_settings_that_are_wrong_or_unknown_are_refused(settings: dict[str, Any], match: str, llama: Path) -> None:
    change_settings(llama, **settings)
    refused(llama, match)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"scale_attn_weights": False}, "scale_attn_weights: false is not supported; it must be true"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx: true"),
        ({"add_cross_attention": True}, "add_cross_attention: true"),
        ({"activation_function": "quick_gelu"}, 'activation_function: "quick_gelu" is not supported'),
        ({"embd_pdrop": 0.3}, "embd_pdrop: 0.3 is not supported; it must be 0.1, as resid_pdrop"),
        ({"n_positions": 64}, r"transformer.wpe.weight of shape \[48, 32\] instead of \[64, 32\]"),
    ],
)
def test_settings_of_gpt2_that_are_unknown_are_refused(settings: dict[str, Any], match: str, gpt2: Path) -> None:
    change_settings(gpt2, **settings)
    refused(gpt2, match)


def test_windows_that_follow_no_rule_are_refused(tmp_path: Path) -> None:
    config = {**OURS_QWEN3, "layers": 3, "window": 7, "global_every": 3}
    folder = export(random_checkpoint(tmp_path, **config), tmp_path / "theirs")
    change_settings(folder, layer_types=["full_attention", "sliding_attention", "sliding_attention"])
    refused(folder, "layer_types: .* every n-th")
    change_settings(folder, layer_types=None, max_window_layers=1)
    refused(folder, "layer_types")
    change_settings(folder, max_window_layers=3)
    assert load_model(import_model(folder, tmp_path / "ours"))[1].window is None


def test_missing_unexpected_and_misshapen_tensors_are_all_named(llama: Path) -> None:
    def change(weights: dict[str, torch.Tensor]) -> None:
        del weights["model.layers.1.mlp.up_proj.weight"]
        weights["model.layers.0.self_attn.q_norm.weight"] = torch.ones(8)
        weights["model.norm.weight"] = torch.ones(31)

    change_weights(llama, change)
    refused(
        llama,
        "do not fit config.json: missing model.layers.1.mlp.up_proj.weight; "
        "unexpected model.layers.0.self_attn.q_norm.weight; "
        r"model.norm.weight of shape \[31\] instead of \[32\]",
    )


def test_a_long_list_of_tensors_is_cut(llama: Path) -> None:
    change_settings(llama, num_hidden_layers=4)
    refused(llama, "missing model.layers.2.input_layernorm.weight; .*; and 10 more")


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.5, 0.999])
def test_truncated_weights_are_refused(share: float, llama: Path) -> None:
    path = llama / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    refused(llama, "model.safetensors: truncated or damaged")


def test_numbers_that_are_not_plain_are_refused(llama: Path) -> None:
    change_weights(llama, lambda weights: weights.update({"model.norm.weight": torch.ones(32, dtype=torch.int8)}))
    refused(llama, "model.norm.weight: numbers of type I8 are not supported")


def test_a_pickle_is_never_read(llama: Path) -> None:
    (llama / "model.safetensors").rename(llama / "pytorch_model.bin")
    refused(llama, "pytorch_model.bin, but no model.safetensors. That file is a pickle")
    (llama / "pytorch_model.bin").unlink()
    refused(llama, "holds neither model.safetensors nor model.safetensors.index.json")


def test_broken_json_is_named(llama: Path) -> None:
    (llama / "config.json").write_text("{")
    refused(llama, "config.json: damaged")
    (llama / "config.json").write_text("[]")
    refused(llama, "config.json: damaged: not a JSON object")
    (llama / "config.json").unlink()
    refused(llama, "config.json: cannot be read")


def test_broken_tokenizers_are_named(llama: Path) -> None:
    for content in ("{", "{}", '{"model": {"vocab": {"a": "b"}}}'):
        (llama / "tokenizer.json").write_text(content)
        refused(llama, "tokenizer.json: damaged")


def test_an_index_points_to_files_of_the_folder_only(tmp_path: Path) -> None:
    folder = export(random_checkpoint(tmp_path, **OURS_LLAMA), tmp_path / "theirs", shard_bytes=20_000)
    index = folder / "model.safetensors.index.json"
    document = json.loads(index.read_text())
    whole = document["weight_map"]
    for file, match in (
        ("../model-00001-of-00005.safetensors", "is no file name"),
        (7, "is no file name"),
        ("model-9.safetensors", "model-9.safetensors: cannot be read"),
        (whole["lm_head.weight"], "lacks model.norm.weight, which"),
    ):
        index.write_text(json.dumps({"weight_map": {**whole, "model.norm.weight": file}}))
        refused(folder, match)
    index.write_text('{"weight_map": {}}')
    refused(folder, "it has no weight_map")


def test_a_head_beside_a_tied_embedding_must_be_the_same(gpt2: Path, tmp_path: Path) -> None:
    change_weights(gpt2, lambda weights: weights.update({"lm_head.weight": weights["transformer.wte.weight"] + 1}))
    refused(gpt2, "lm_head.weight: differs from transformer.wte.weight, though config.json says tie_word_embeddings")
    change_weights(gpt2, lambda weights: weights.update({"lm_head.weight": weights["transformer.wte.weight"].clone()}))
    model, config = load_model(import_model(gpt2, tmp_path / "ours"))
    assert config.tied_embeddings
    assert model.head.weight is model.embedding.weight


def test_importing_draws_no_random_numbers(gpt2: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    import_model(gpt2, tmp_path / "ours")
    assert torch.equal(torch.get_rng_state(), before)
