"""Which optimiser trains which parameter, at which rate and decay."""

from __future__ import annotations

import torch
from torch import Tensor

from training.config import ModelConfig, OptimizerConfig
from training.models.transformer import Transformer
from training.optimizers.adamw import AdamW
from training.optimizers.lion import Lion
from training.optimizers.muon import Muon
from training.optimizers.optimizer_set import OptimizerSet
from training.optimizers.part import Part
from training.optimizers.row_adagrad import RowAdagrad
from training.optimizers.sgd import SGD

_BIGRAMS = "bigrams.weight"
_EMBEDDINGS = ("embedding.", "position_embedding")


def build(
    config: OptimizerConfig, model: Transformer, dtype: torch.dtype = torch.float32, compiled: bool = False
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
        matrices = {name: parameters.pop(name) for name in list(parameters) if _of_a_block(name, parameters[name])}
        groups: dict[tuple[int, ...], list[Tensor]] = {}
        for name, matrix in matrices.items():
            groups.setdefault(stacked_rows(name, model.config), []).append(matrix)
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
        parts.append(_elementwise(config, parameters, model.config))
    return OptimizerSet(model, parts)


def stacked_rows(name: str, config: ModelConfig) -> tuple[int, ...]:
    """How many rows belong to each of the matrices that are stacked in a parameter of a block; empty if it is one."""
    if name.endswith("attention.qkv.weight"):
        keys = config.key_value_heads * config.width_of_head
        return (config.heads * config.width_of_head, keys, keys)
    if name.endswith("mlp.input.weight") and config.mlp == "swiglu":
        return (config.hidden_width, config.hidden_width)
    return ()


def _elementwise(config: OptimizerConfig, parameters: dict[str, Tensor], shape: ModelConfig) -> Part:
    """One optimiser that treats every number alike, with a group for each pair of learning rate and decay.

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
    return AdamW(settings, config.learning_rate, betas, config.epsilon, config.weight_decay)


def _of_a_block(name: str, parameter: Tensor) -> bool:
    return name.startswith("blocks.") and parameter.ndim == 2


def _decays(name: str, parameter: Tensor, config: OptimizerConfig) -> bool:
    return parameter.ndim == 2 and (config.decay_embeddings or not name.startswith(_EMBEDDINGS))
