"""Whole models: quantized at once, trained with fake quantization and converted, saved and restored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.checkpoints.files import file_digest, write_json, write_tensors
from training.checkpoints.writing import FORMAT, MODEL
from training.compression.quantization.calibration import calibrate
from training.compression.quantization.config import QuantizationConfig
from training.compression.quantization.layers import QuantizedLinear, StaticLinear, make
from training.compression.quantization.simulation import SimulatedLinear, quantized
from training.config import from_dict, to_dict
from training.models import Model
from training.models.sharing import shared_names


@torch.no_grad()
def quantize(model: Model, config: QuantizationConfig, calibration: Iterable[Tensor] | None = None) -> None:
    """Quantize the matrices of a model's blocks, in place; the model is for use then, and not trained on.

    `calibration`: ids (B, T) int64 on the model's device, for static_int8 alone. Raises ValueError where that is
    missing, where a weight is not finite, and for a model that is quantized already.
    """
    layers = _linears(model)
    _check(layers, config)
    ranges: dict[str, tuple[Tensor, Tensor]] = {}
    if config.method == "static_int8":
        if calibration is None:
            raise ValueError("static_int8 needs text to calibrate on: give the shards of the model's training as data")
        ranges = calibrate(model, layers, calibration, config)

    def exchanged(name: str, layer: nn.Linear) -> nn.Module:
        made = quantized(layer, config)
        if isinstance(made, StaticLinear):
            made.set_range(*ranges[name])
        return made

    _exchange(model, layers, exchanged)
    model.quantization = config


def prepare_qat(model: Model, config: QuantizationConfig) -> None:
    """Let the matrices of a model's blocks train with the rounding of a quantization, in place.

    The parameters stay the same objects under the same names. Raises ValueError as `quantize` does.
    """
    layers = _linears(model)
    _check(layers, config)
    _exchange(model, layers, lambda _, layer: SimulatedLinear.of(layer, config))


@torch.no_grad()
def convert(model: Model) -> None:
    """Quantize a model that was trained behind `prepare_qat`, in place; raises ValueError for one that was not."""
    layers = {name: layer for name, layer in _linears(model).items() if isinstance(layer, SimulatedLinear)}
    if not layers:
        raise ValueError("this model has no fake quantization: call prepare_qat before its training")
    config = next(iter(layers.values())).quantization
    _check(layers, config)
    _exchange(model, layers, lambda name, _: layers[name].converted())
    model.quantization = config


def save(model: Model, description: Mapping[str, Any], folder: str | Path) -> None:
    """Write config.json and model.safetensors of a quantized model into a folder that is there.

    `description` adds JSON facts to config.json; a tokenizer.json that lies in the folder already is named by its
    digest. `training.checkpoints.load_model` reads the model. Raises ValueError for one that is not quantized.
    """
    config = getattr(model, "quantization", None)
    if not isinstance(config, QuantizationConfig):
        raise ValueError("this model is not quantized: call quantize, or convert, before save")
    target = Path(folder)
    further = shared_names(model)
    tensors = {
        name: tensor.detach().to("cpu").contiguous()
        for name, tensor in model.state_dict().items()
        if name not in further
    }
    write_tensors(target / MODEL, tensors)
    tokenizer = target / "tokenizer.json"
    document = {
        "format": FORMAT,
        "model": to_dict(model.config),
        "vocabulary_size": model.vocabulary_size,
        "tokenizer_sha256": file_digest(tokenizer) if tokenizer.is_file() else None,
        **description,
        "quantization": to_dict(config),
    }
    write_json(target / "config.json", document)


def restore(model: Model, description: Mapping[str, Any]) -> None:
    """Put undefined quantized layers into a model, in place, whose tensors are then filled from the file.

    `description` is what config.json has as `quantization`. Raises ValueError naming the field that is wrong.
    """
    config = from_dict(QuantizationConfig, dict(description), "quantization")
    layers = _linears(model)
    _check_shapes(layers, config)
    _exchange(model, layers, lambda _, layer: make(layer, config))
    model.quantization = config


def _linears(model: Model) -> dict[str, nn.Linear]:
    """The linear layers of the blocks by name; one that is shared counts once."""
    if any(isinstance(module, QuantizedLinear) for module in model.modules()):
        raise ValueError("this model is quantized already: begin with the model that it was made of")
    found = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    return {name: module for name, module in found.items() if "blocks." in name}


def _check(layers: Mapping[str, nn.Linear], config: QuantizationConfig) -> None:
    _check_shapes(layers, config)
    for name, layer in layers.items():
        if not torch.isfinite(layer.weight).all():
            raise ValueError(f"{name}.weight holds NaN or infinite numbers; such a model cannot be quantized")


def _check_shapes(layers: Mapping[str, nn.Linear], config: QuantizationConfig) -> None:
    for name, layer in layers.items():
        # Adapters put their own class in the place of the layer.
        if type(layer) not in (nn.Linear, SimulatedLinear):
            raise ValueError(f"{name} is a {type(layer).__name__}: merge the adapter before the model is quantized")
        if config.bits == 4 and layer.in_features % 2:
            raise ValueError(f"{name} has rows of {layer.in_features} weights; weight_int4 needs an even number")


def _exchange(model: Model, layers: Mapping[str, nn.Linear], made: Callable[[str, nn.Linear], nn.Module]) -> None:
    """Put other layers in the place of these, one for each, wherever they stand."""
    new = {id(layer): made(name, layer) for name, layer in layers.items()}
    for owner, name, layer in list(_places(model)):
        if id(layer) in new:
            setattr(owner, name, new[id(layer)])


def _places(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    for owner in model.modules():
        for name, layer in owner.named_children():
            yield owner, name, layer
