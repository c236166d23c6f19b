"""Whole models quantized, trained with fake quantization, saved and loaded again."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.training.evaluation.kinds import checkpoint, shards
from tests.training.small_models import one_thread  # noqa: F401
from training.checkpoints import CheckpointError, TrainerState, load_initial, load_model
from training.checkpoints import load_weights as load_checkpoint_weights
from training.checkpoints import save as save_checkpoint
from training.checkpoints.files import read_tensors
from training.compression import run
from training.compression.quantization import QuantizationConfig, convert, prepare_qat, quantize, save
from training.compression.quantization.calibration import Histogram
from training.compression.quantization.layers import QuantizedLinear
from training.compression.quantization.simulation import SimulatedLinear
from training.config import ModelConfig, to_dict
from training.config.generation import GenerationConfig
from training.generation import Generator
from training.models import Model, build

METHODS: list[Any] = ["dynamic_int8", "weight_int8", "weight_int4", "static_int8"]
ROUNDING = {"dynamic_int8": 0.05, "weight_int8": 0.05, "weight_int4": 0.4, "static_int8": 0.15}
"""How far the outputs of a random model may be off, relative to their size."""


def a_model(seed: int = 0, **shape: Any) -> Model:
    torch.manual_seed(seed)
    model = build(ModelConfig(**{"layers": 2, "heads": 4, "width": 64, "context_length": 32, **shape}), 100)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.copy_(torch.randn_like(parameter) * 0.15)
    return model.eval()


def ids(rows: int = 8, tokens: int = 16, seed: int = 1) -> Tensor:
    return torch.randint(0, 100, (rows, tokens), generator=torch.Generator().manual_seed(seed))


def off(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def expanded(model: Model) -> Model:
    """The same model with plain layers over the weights that the integers stand for."""
    plain = copy.deepcopy(model)
    for owner in list(plain.modules()):
        for name, layer in list(owner.named_children()):
            if isinstance(layer, QuantizedLinear):
                made = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)
                made.weight = nn.Parameter(layer.weight)
                if layer.bias is not None:
                    made.bias = layer.bias
                setattr(owner, name, made)
    return plain


@torch.no_grad()
@pytest.mark.parametrize("method", METHODS)
def test_a_model_and_its_file(method: str, tmp_path: Path) -> None:
    model = a_model()
    dense = copy.deepcopy(model)
    quantize(model, QuantizationConfig(method), [ids(), ids(seed=2)])  # type: ignore[arg-type]
    quantized = [name for name, layer in model.named_modules() if isinstance(layer, QuantizedLinear)]
    assert len(quantized) == 8
    assert all(name.startswith("blocks.") for name in quantized)
    found = model(ids())
    assert 1e-4 < off(found, dense(ids())) < ROUNDING[method]
    if method.startswith("weight"):
        assert off(found, expanded(model)(ids())) < 1e-5
        assert off(model(ids(1, 4)), expanded(model)(ids(1, 4))) < 0.02  # by the kernels for few rows
    (tmp_path / "tokenizer.json").write_text("{}")
    save(model, {"step": 3, "parent": {"checkpoint": "x", "sha256": "y"}}, tmp_path)
    description = json.loads((tmp_path / "config.json").read_text())
    assert description["quantization"]["method"] == method
    assert description["step"] == 3
    assert len(description["tokenizer_sha256"]) == 64
    loaded, config = load_model(tmp_path)
    assert config == model.config
    assert torch.equal(loaded(ids()), found)
    stored = {name: tensor for name, tensor in read_tensors(tmp_path / "model.safetensors").items() if "blocks" in name}
    weights = sum(layer.weight.numel() for layer in model.modules() if isinstance(layer, QuantizedLinear))
    integers = sum(tensor.nbytes for tensor in stored.values() if tensor.dtype in (torch.int8, torch.uint8))
    assert integers == weights * (4 if method == "weight_int4" else 8) // 8
    assert sum(tensor.nbytes for tensor in stored.values()) < (0.22 if method == "weight_int4" else 0.35) * 4 * weights


@torch.no_grad()
@pytest.mark.parametrize("method", ["dynamic_int8", "static_int8", "weight_int4"])
@pytest.mark.parametrize("kind", ["bert", "albert", "electra", "xlnet", "t5"])
def test_every_architecture(kind: str, method: str, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, kind)
    model, _ = load_model(folder)
    dense = copy.deepcopy(model)
    given = (ids(), ids(seed=3)) if kind == "t5" else (ids(),)
    quantize(model, QuantizationConfig(method), [given[0]])  # type: ignore[arg-type]
    found = model(*given)
    if method == "weight_int4":
        assert off(found, expanded(model)(*given)) < 1e-5
    assert 0 < off(found, dense(*given)) < (1.0 if method == "weight_int4" else 0.5)
    save(model, {}, tmp_path)
    assert torch.equal(load_model(tmp_path)[0](*given), found)
    names = [name for name, layer in model.named_modules() if type(layer) is nn.Linear and "blocks." in name]
    assert not names


@torch.no_grad()
def test_generation_goes_on_with_integers(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, "gpt")
    model, _ = load_model(folder)
    quantize(model, QuantizationConfig())
    made = tmp_path / "made"
    made.mkdir()
    (made / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    save(model, json.loads((folder / "config.json").read_text()), made)
    loaded = load_model(made)[0]
    prompt = [5, 6, 7]
    settings = GenerationConfig(max_new_tokens=12, temperature=0.0)
    found = list(Generator.load(made).token_ids(prompt, settings))
    sequence = list(prompt)
    for token in found:
        assert token == int(loaded(torch.tensor([sequence]))[0, -1].argmax())
        sequence.append(token)
    assert found


@pytest.mark.parametrize("percent", [90.0, 99.0, 99.9])
def test_percentiles(percent: float) -> None:
    values = torch.randn(50_000, generator=torch.Generator().manual_seed(0)) ** 3
    histogram = Histogram(values.min(), values.max())
    for part in values.split(7_000):
        histogram.see(part)
    low, high = histogram.covering(percent)
    step = float(values.max() - values.min()) / 8192
    outside = len(values) * (100 - percent) / 200
    # One bin further in there would be too many values outside.
    for inside in (values - low, high - values):
        assert int((inside < -1e-3 * step).sum()) <= outside < int((inside < 1.01 * step).sum())


@torch.no_grad()
def test_percentiles_help_against_outliers() -> None:
    model = a_model(mlp="relu2", norm="rmsnorm")
    model.blocks[0].mlp.input.weight[0] *= 40  # one neuron far beyond the others
    errors = {}
    for observer in ("minmax", "percentile"):
        made = copy.deepcopy(model)
        quantize(made, QuantizationConfig("static_int8", observer=observer, percentile=99.0), [ids(32)])  # type: ignore[arg-type]
        layer = made.blocks[0].mlp.output
        errors[observer] = float(layer.input_scale)
    assert errors["percentile"] < 0.5 * errors["minmax"]


def losses(model: Model, steps: int, seed: int = 0) -> list[float]:
    """A little training on one text."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    found = []
    for step in range(steps):
        batch = ids(4, 16, seed=100 + step % 2)
        loss = nn.functional.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(float(loss.detach()))
    model.eval()
    return found


@pytest.mark.parametrize("method", METHODS)
def test_training_with_the_rounding(method: str, tmp_path: Path) -> None:
    config = QuantizationConfig(method)  # type: ignore[arg-type]
    model = a_model()
    names = [name for name, _ in model.named_parameters()]
    same = dict(model.named_parameters())
    prepare_qat(model, config)
    assert [name for name, _ in model.named_parameters()] == names
    assert all(parameter is same[name] for name, parameter in model.named_parameters())
    found = losses(model, 40)
    assert found[-1] < 0.4 * found[0]
    with torch.no_grad():
        before = model(ids())
        # A stopped training goes on from a checkpoint with the ranges that it had seen.
        path = save_checkpoint(tmp_path / "c", model, TrainerState(1, {}, {}, {}), {})
        again = a_model(seed=9)
        prepare_qat(again, config)
        load_checkpoint_weights(again, path)
        assert torch.equal(again.eval()(ids()), before)
        convert(model)
        assert not any(isinstance(layer, SimulatedLinear) for layer in model.modules())
        # An activation on the edge between two integers may fall to either side.
        assert off(model(ids()), before) < 0.02
        save(model, {}, tmp_path)
        assert torch.equal(load_model(tmp_path)[0](ids()), model(ids()))


def test_training_with_the_rounding_beats_rounding_afterwards() -> None:
    """Where inputs are correlated, the nearest integers are not the best, and plain training has nothing to gain."""
    torch.manual_seed(0)
    config = QuantizationConfig("weight_int4", group_size=0)
    plain = nn.Linear(64, 16)
    x = torch.randn(512, 6) @ torch.randn(6, 64) + 0.1 * torch.randn(512, 64)
    y = plain(x).detach()
    simulated = SimulatedLinear.of(copy.deepcopy(plain), config)
    optimizer = torch.optim.Adam(simulated.parameters(), lr=1e-3)
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 - step / 200)
        optimizer.zero_grad()
        (simulated(x) - y).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        afterwards = (SimulatedLinear.of(plain, config).converted()(x) - y).square().mean()
        assert (simulated.converted()(x) - y).square().mean() < 0.5 * afterwards


@pytest.mark.parametrize("tuning", [{}, {"steps": 4, "batch_size": 2, "checkpoint_every": 2}])
@pytest.mark.parametrize("method", ["static_int8", "weight_int4"])
def test_a_compression_ends_in_integers(method: str, tuning: dict[str, Any], tmp_path: Path) -> None:
    data = [to_dict(shard) for shard in shards(tmp_path)]
    model = checkpoint(tmp_path / "parent", "gpt")
    results = run(
        {
            "steps": [{"quantize": {"method": method}, "tuning": tuning}],
            "checkpoint": str(model),
            "output": str(tmp_path / "job"),
            "data": data,
            "threads": 1,
            "device": "cpu",
            "speed_seconds": 0.05,
            "speed_batch": 2,
        }
    )
    metrics = results["metrics"]
    assert metrics["bytes"] < 0.8 * metrics["before/bytes"]
    assert metrics["parameters"] == metrics["before/parameters"]
    assert math.isfinite(metrics["perplexity"])
    assert metrics["generated_tokens_per_second"] > 0
    made = load_model(tmp_path / "job" / "model")[0]
    assert any(isinstance(layer, QuantizedLinear) for layer in made.modules())


def with_nan() -> Model:
    model = a_model()
    with torch.no_grad():
        model.blocks[1].mlp.input.weight[3, 4] = float("nan")
    return model


def quantized_model() -> Model:
    model = a_model()
    quantize(model, QuantizationConfig())
    return model


def test_what_cannot_be_done_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"blocks\.1\.mlp\.input\.weight holds NaN"):
        quantize(with_nan(), QuantizationConfig())
    with pytest.raises(ValueError, match=r"blocks\.1\.mlp\.input\.weight holds NaN"):
        prepare_qat(with_nan(), QuantizationConfig())
    with pytest.raises(ValueError, match="static_int8 needs text"):
        quantize(a_model(), QuantizationConfig("static_int8"))
    with pytest.raises(ValueError, match="has seen no activations"):
        quantize(a_model(), QuantizationConfig("static_int8"), [])
    with pytest.raises(ValueError, match="quantized already"):
        quantize(quantized_model(), QuantizationConfig())
    with pytest.raises(ValueError, match="call prepare_qat before"):
        convert(a_model())
    with pytest.raises(ValueError, match="is not quantized"):
        save(a_model(), {}, tmp_path)
    model = a_model()
    prepare_qat(model, QuantizationConfig("static_int8"))
    with pytest.raises(ValueError, match="sees activations"):
        convert(model)
    with pytest.raises(ValueError, match="needs an even number"):
        quantize(a_model(mlp_width=33), QuantizationConfig("weight_int4"))
    with pytest.raises(ValueError, match=r"group_size must be at least 0"):
        QuantizationConfig(group_size=-1)


def test_a_file_that_is_another_is_refused(tmp_path: Path) -> None:
    save(quantized_model(), {}, tmp_path)
    path = tmp_path / "config.json"
    with pytest.raises(CheckpointError, match="is quantized; start from"):
        load_initial(a_model(), tmp_path)
    document = json.loads(path.read_text())
    for quantization, message in (
        ({"method": "int3"}, r"config\.json: quantization\.method: expected one of"),
        ({"method": "weight_int4"}, r"model\.safetensors: does not fit"),
        ("int8", r"config\.json: "),
    ):
        path.write_text(json.dumps({**document, "quantization": quantization}))
        with pytest.raises(CheckpointError, match=message):
            load_model(tmp_path)
