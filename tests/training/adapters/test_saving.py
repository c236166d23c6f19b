"""Adapters in checkpoint folders, what is refused, and configs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.huggingface.parity import VOCABULARY, random_checkpoint, tokens
from training.adapters import AdapterConfig, adapt, attach
from training.checkpoints import load_model, load_state
from training.compression.quantization import QuantizationConfig, quantize
from training.config import ModelConfig, from_dict, to_dict
from training.models import build

SHAPE: dict[str, Any] = {"layers": 2, "heads": 2, "width": 32, "context_length": 24, "bias": "all"}


def trained(folder: Path, method: Any, **settings: Any) -> tuple[Any, Any]:
    """A model of a checkpoint that was adapted and changed."""
    model, _ = load_model(random_checkpoint(folder, **SHAPE))
    adaptation = adapt(model, AdapterConfig(method, **settings), 0)
    with torch.no_grad():
        for index, parameter in enumerate(adaptation.trained()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index))
            parameter.add_(noise, alpha=0.2)
    return model, adaptation


def checkpoint_of(folder: Path) -> Path:
    return folder / "checkpoints" / "step-00000007"


@pytest.mark.parametrize("method", ["lora", "adalora", "houlsby", "prefix", "bitfit"])
def test_a_saved_adapter_comes_back(method: str, tmp_path: Path) -> None:
    model, adaptation = trained(tmp_path, method)
    expected = model(tokens(9))
    folder = checkpoint_of(tmp_path)
    adaptation.save(folder)
    again, _ = load_model(random_checkpoint(tmp_path / "plain", **SHAPE))
    assert not torch.allclose(again(tokens(9)), expected, atol=1e-2)
    attached = attach(again, folder)
    assert attached.config == adaptation.config
    assert torch.equal(again.eval()(tokens(9)), expected)
    assert load_state(folder).step == 7  # the digests of what was changed and added are told
    listed = json.loads((folder / "trainer.json").read_text())["files"]
    assert "adapter.safetensors" in listed


@pytest.mark.parametrize("method", ["full", "frozen"])
def test_no_adapter_is_no_file(method: str, tmp_path: Path) -> None:
    _, adaptation = trained(tmp_path, method)
    with pytest.raises(ValueError, match="has no adapter"):
        adaptation.save(checkpoint_of(tmp_path))


def test_damaged_files_are_named(tmp_path: Path) -> None:
    _, adaptation = trained(tmp_path, "lora", rank=2)
    folder = checkpoint_of(tmp_path)
    plain, _ = load_model(folder)
    with pytest.raises(ValueError, match=r"config\.json: names no adapter"):
        attach(plain, folder)
    adaptation.save(folder)
    description = json.loads((folder / "config.json").read_text())
    assert description["adapter"]["rank"] == 2
    for change, message in (({"rank": 4}, "has the shape"), ({"targets": ["query"]}, "unknown to this adapter")):
        changed = {**description, "adapter": {**description["adapter"], **change}}
        (folder / "config.json").write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=r"adapter\.safetensors: .*" + message):
            attach(build(ModelConfig(**SHAPE), VOCABULARY), folder)
    (folder / "config.json").write_text(json.dumps(description))
    (folder / "adapter.safetensors").unlink()
    with pytest.raises(ValueError, match=r"adapter\.safetensors"):
        attach(build(ModelConfig(**SHAPE), VOCABULARY), folder)


def test_merging_what_is_no_number_is_refused(tmp_path: Path) -> None:
    _, adaptation = trained(tmp_path, "lora")
    with torch.no_grad():
        adaptation.trained()[0][0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinity"):
        adaptation.merge()


def test_an_adapted_model_is_not_adapted_again(tmp_path: Path) -> None:
    model, adaptation = trained(tmp_path, "lora")
    with pytest.raises(ValueError, match="has an adapter already"):
        adapt(model, AdapterConfig("houlsby"), 0)
    with pytest.raises(ValueError, match="has an adapter already"):
        adapt(model, AdapterConfig("lora"), 0)
    adaptation.merge()
    adapt(model, AdapterConfig("lora"), 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "lore"}, "method: expected one of full, frozen"),
        ({"targets": ["queries"]}, r"targets\[0\]: expected one of"),
        ({"targets": []}, "targets must name"),
        ({"targets": ["qkv", "key"]}, "qkv holds key"),
        ({"targets": ["mlp_input", "all"]}, "mlp_input holds gate"),
        ({"rank": 0}, "rank must be at least 1"),
        ({"method": "adalora", "target_rank": 13}, "target_rank must not exceed initial_rank = 12, got 13"),
        ({"beta1": 1.0}, "beta1 must lie"),
        ({"dropout": 1.0}, "dropout must lie"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_dict(AdapterConfig, settings)


def test_settings_come_back_from_json() -> None:
    config = AdapterConfig("adalora", targets=("query", "down"), tinit=3)
    assert from_dict(AdapterConfig, json.loads(json.dumps(to_dict(config)))) == config


def test_what_the_model_or_the_run_cannot_give_is_refused() -> None:
    model = build(ModelConfig(**SHAPE), VOCABULARY)
    with pytest.raises(ValueError, match="this model has no gate; it has all, attention_output, down"):
        adapt(model, AdapterConfig("lora", targets=("gate",)), 0)
    adaptation = adapt(model, AdapterConfig("adalora", tinit=4, tfinal=4), 0)
    with pytest.raises(ValueError, match=r"tinit \(4\) and tfinal \(4\) leave nothing of 8 steps"):
        adaptation.after_step(1, 8)
    quantized = build(ModelConfig(**SHAPE), VOCABULARY)
    quantize(quantized, QuantizationConfig())
    for method, message in (("full", "this model's are integers"), ("lora", "is a DynamicLinear and no plain matrix")):
        with pytest.raises(ValueError, match=message):
            adapt(quantized, AdapterConfig(method), 0)  # type: ignore[arg-type]


def test_adapting_leaves_the_generator_of_torch_alone() -> None:
    model = build(ModelConfig(**SHAPE), VOCABULARY)
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    adapt(model, AdapterConfig("lora"), 0)
    assert torch.equal(torch.rand(3), expected)
