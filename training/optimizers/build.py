"""Which optimiser trains which parameter, at which rate and decay."""

from __future__ import annotations

import torch
from torch import Tensor, nn

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
        parts.append(
            Muon(
                [{"params": params, "split": split} for split, params in groups.items()],
                config.muon_learning_rate,
                config.momentum,
                config.weight_decay,
                dtype,
                compiled,
            )
        )
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
    """One optimiser for all these parameters, with a group for each pair of learning rate and decay.

    With mup the rate of a block's matrix, but for SGD, falls as the model grows wider than the base (Yang et al. 2022,
    table 8). Its decay rises as much, so that weights shrink alike at every width.
    """
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in parameters.items():
        scaled = shape.initialization == "mup" and config.name != "sgd" and _of_a_block(name, parameter)
        scale = shape.mup_base_width / shape.width if scaled else 1.0
        decay = config.weight_decay if _decays(name, parameter, config) else 0.0
        groups.setdefault((config.learning_rate * scale, decay / scale), []).append(parameter)
    settings = [{"params": params, "lr": lr, "weight_decay": decay} for (lr, decay), params in groups.items()]
    if config.name == "sgd":
        return SGD(settings, config.learning_rate, config.momentum, config.weight_decay)
    betas = (config.beta1, config.beta2)
    if config.name == "lion":
        return Lion(settings, config.learning_rate, betas, config.weight_decay)
    if config.name == "lamb":
        return Lamb(settings, config.learning_rate, betas, config.epsilon, config.weight_decay, stacked)
    return AdamW(settings, config.learning_rate, betas, config.epsilon, config.weight_decay)


def _of_a_block(name: str, parameter: Tensor) -> bool:
    return "blocks." in name and parameter.ndim == 2


def _decays(name: str, parameter: Tensor, config: OptimizerConfig) -> bool:
    return parameter.ndim == 2 and (config.decay_embeddings or name.split(".")[-2] not in _EMBEDDINGS)
