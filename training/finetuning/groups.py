"""Which parameters are trained at which rate: layer-wise decay, heads of their own, no decay of vectors."""

from __future__ import annotations

import re

from torch import Tensor

from training.finetuning.config import FinetuningConfig
from training.finetuning.network import Network
from training.models import Model
from training.optimizers.adamw import AdamW
from training.optimizers.optimizer_set import OptimizerSet

_BLOCK = re.compile(r"(?:^|\.)blocks\.(\d+)\.")
_BOTTOM = (
    "embedding",
    "position_embedding",
    "type_embedding",
    "bigrams",
    "embedding_norm",
    "embedding_projection",
    "encoder_positions",
    "mask_embedding",
)
_HEADS = "heads."


def depth_of(name: str, blocks: int) -> int:
    """The layer of a parameter by its name: 0 for embeddings, 1 for the first block, blocks + 1 for what reads the
    last one."""
    found = _BLOCK.search(name)
    if found:
        return int(found[1]) + 1
    parts = name.split(".")
    return 0 if any(part in _BOTTOM for part in parts) and not name.startswith(_HEADS) else blocks + 1


def build_optimizer(config: FinetuningConfig, network: Network) -> OptimizerSet:
    """AdamW over all that requires a gradient, with a group for each pair of learning rate and decay."""
    trunk: Model = getattr(network.model, "discriminator", network.model)
    blocks = getattr(trunk, "encoder_layers", len(trunk.blocks))
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        rate = config.learning_rate
        if name.startswith(_HEADS):
            rate = config.head_learning_rate or rate
        rate *= config.layer_decay ** (blocks + 1 - depth_of(name, blocks))
        decay = config.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    settings = [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]
    betas = (config.beta1, config.beta2)
    part = AdamW(settings, config.learning_rate, betas, config.epsilon, config.weight_decay)
    return OptimizerSet(network, [part])
