"""The multipliers of `mup` as part of the weights, for formats that know of none."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from training import mup
from training.config import ModelConfig

_ADDED = ("attention.output.weight", "attention.output.bias", "mlp.output.weight", "mlp.output.bias")
_LAST_NORM = ("norm.weight", "norm.bias")


def with_multipliers(weights: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Weights by name of a model that multiplies nothing and says the same as this Transformer's.

    Queries that are normalised without gains (`qk_norm: plain`) leave no place for their factor: such a model is of no
    family that is exported.
    """
    branch, query, output = mup.branch(config), mup.query(config), mup.output(config)
    assert output == 1 or "norm.weight" in weights, "a family that has no last norm must refuse mup"
    assert query == 1 or config.qk_norm != "plain", "a family without gains of queries must refuse mup_base_head_width"
    result = dict(weights)
    for name, tensor in weights.items():
        if name in _LAST_NORM:
            result[name] = tensor * output
        elif name.endswith(_ADDED) and name.startswith("blocks."):
            result[name] = tensor * branch
        elif query != 1 and name.startswith("blocks."):
            result[name] = _queries(name, tensor, query, config)
    return result


def _queries(name: str, tensor: Tensor, factor: float, config: ModelConfig) -> Tensor:
    """A parameter of a block whose queries are multiplied."""
    if name.endswith("attention.query_norm.weight"):
        return tensor * factor
    if config.qk_norm == "none" and name.endswith(("attention.qkv.weight", "attention.qkv.bias")):
        tensor = tensor.clone()
        tensor[: config.heads * config.width_of_head] *= factor
    return tensor
