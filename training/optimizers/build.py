"""Which optimiser trains which parameter, at which rate and decay."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from training import mup
from training.config import ModelConfig, OptimizerConfig
from training.models import Model
from training.optimizers.adamw import AdamW
from training.optimizers.lamb import Lamb
from training.optimizers.lion import Lion
from training.optimizers.muon import Muon
from training.optimizers.optimizer_set import OptimizerSet
from training.optimizers.part import Part
from training.optimizers.row_adagrad import RowAdagrad
from training.optimizers.sgd import SGD

_BIGRAMS = "bigrams.weight"
_EMBEDDINGS = ("embedding", "position_embedding", "type_embedding")


def build(
    config: OptimizerConfig, model: Model, dtype: torch.dtype = torch.float32, compiled: bool = False
) -> OptimizerSet:
    """The optimisers of a config, for a model that computes in `dtype`; `compiled` compiles what is worth it.

    The model must be on its device, and sharded if it is to be. A hashed bigram embedding is trained by RowAdagrad,
    whatever the config names.
    """
    parameters: dict[str, Tensor] = dict(model.named_parameters())
    parts: list[Part] = []
    if _BIGRAMS in parameters:
        parts.append(RowAdagrad([parameters.pop(_BIGRAMS)], config.bigram_learning_rate))
    if config.name == "muon":
        stacked = stacked_rows(model)
        matrices = {name: parameters.pop(name) for name in list(parameters) if _of_a_block(name, parameters[name])}
        groups: dict[tuple[int, ...], list[Tensor]] = {}
        for name, matrix in matrices.items():
            groups.setdefault(stacked.get(name, ()), []).append(matrix)
        scale = mup.scale(model.config, "muon", of_block=True, matrix=True)
        rate, decay = config.muon_learning_rate * scale.rate, config.weight_decay * scale.decay
        settings = [{"params": params, "split": split} for split, params in groups.items()]
        parts.append(Muon(settings, rate, config.momentum, decay, dtype, compiled))
    if parameters:
        rows = {parameters[name]: split for name, split in stacked_rows(model).items() if name in parameters}
        parts.append(_elementwise(config, parameters, model.config, rows))
    return OptimizerSet(model, parts)


def stacked_rows(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """The rows of each matrix where several are stacked in one parameter, by its name.

    What stacks matrices in its layer `qkv`, `key_value` or `input` tells their rows by an attribute `parts`.
    """
    found: dict[str, tuple[int, ...]] = {}
    for name, module in model.named_modules():
        parts = getattr(module, "parts", ())
        if len(parts) > 1:
            layer = next(name for name in ("qkv", "key_value", "input") if hasattr(module, name))
            found[f"{name}.{layer}.weight"] = tuple(parts)
    return found


def _elementwise(
    config: OptimizerConfig,
    parameters: dict[str, Tensor],
    shape: ModelConfig,
    stacked: dict[Tensor, tuple[int, ...]],
) -> Part:
    """One optimiser for all these parameters, with a group for each triple of learning rate, decay and epsilon.

    With `mup` they depend on the size of the model (`training/mup.py`).
    """
    method = "adamw" if config.name == "muon" else config.name
    groups: dict[tuple[float, float, float], list[Tensor]] = {}
    for name, parameter in parameters.items():
        scale = mup.scale(shape, method, "blocks." in name, parameter.ndim == 2)
        decay = config.weight_decay * scale.decay if _decays(name, parameter, config) else 0.0
        key = (config.learning_rate * scale.rate, decay, config.epsilon * scale.epsilon)
        groups.setdefault(key, []).append(parameter)
    settings: list[dict[str, Any]] = [
        {"params": params, "lr": rate, "weight_decay": decay, "eps": epsilon}
        for (rate, decay, epsilon), params in groups.items()
    ]
    if method == "sgd":
        return SGD(settings, config.learning_rate, config.momentum, config.weight_decay)
    betas = (config.beta1, config.beta2)
    if method == "lion":
        return Lion(settings, config.learning_rate, betas, config.weight_decay)
    if method == "lamb":
        return Lamb(settings, config.learning_rate, betas, config.epsilon, config.weight_decay, stacked)
    return AdamW(settings, config.learning_rate, betas, config.epsilon, config.weight_decay)


def _of_a_block(name: str, parameter: Tensor) -> bool:
    return "blocks." in name and parameter.ndim == 2


def _decays(name: str, parameter: Tensor, config: OptimizerConfig) -> bool:
    return parameter.ndim == 2 and (config.decay_embeddings or name.split(".")[-2] not in _EMBEDDINGS)
