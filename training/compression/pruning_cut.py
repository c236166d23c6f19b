"""A smaller trunk from chosen parts of a model: layers, heads, neurons of the feed-forward layers, channels.

D residual width, E embedding width, F feed-forward width, G key and value heads, K head width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.config import ModelConfig
from training.models import build
from training.models.sharing import share, shared_names
from training.models.transformer import Transformer


@dataclass(frozen=True)
class Kept:
    """Which parts stay, as ascending indices; None: all."""

    layers: Sequence[int] | None = None
    """Places in the forward pass."""
    groups: Sequence[Sequence[int]] | None = None
    """By block: key and value heads, each with the query heads that it serves."""
    neurons: Sequence[Sequence[int]] | None = None
    """By block: neurons of the feed-forward layer."""
    channels: Sequence[int] | None = None
    """Of the residual stream."""


def check_cut(config: ModelConfig, layers: bool = False, heads: bool = False, channels: bool = False) -> None:
    """Raise ValueError where parts of a model of this shape cannot be removed, naming the field."""
    if config.architecture != "transformer":
        raise ValueError(
            f"model.architecture {config.architecture}: only a transformer's layers, heads, neurons and channels can "
            "be removed; magnitude and 2:4 prune every architecture"
        )
    if layers and config.blocks not in (1, config.layers):
        raise ValueError(f"model.layer_groups {config.layer_groups}: layers that share weights in groups stay")
    if layers and config.window is not None and config.global_every:
        raise ValueError("model.global_every: without a layer, others would get its window, or lose theirs")
    if layers and config.mup_base_layers is not None:
        raise ValueError("model.mup_base_layers: what blocks add is scaled by their number, which stays")
    if heads and config.positions == "alibi":
        raise ValueError("model.positions alibi: the slope of a head depends on its place, so that none can be removed")
    if channels and config.initialization == "mup":
        raise ValueError("model.initialization mup: the scale of the logits depends on the width, which stays")


def cut(model: Transformer, kept: Kept) -> Transformer:
    """A new model of the parts that stay, on the same device, in evaluation mode; its tensors are copies.

    Each block keeps as many heads and as many neurons. Raises ValueError as `check_cut` does.
    """
    config = model.config
    check_cut(config, kept.layers is not None, kept.groups is not None, kept.channels is not None)
    smaller = smaller_config(config, kept)
    with torch.device("meta"):
        made = build(smaller, model.vocabulary_size)
    further = shared_names(made)
    indices = _Indices(config, kept, model.embedding.weight.device)
    old = model.state_dict()
    weights: dict[str, Tensor] = {}
    for name in made.state_dict():
        if name not in further:
            source, block = indices.source(name)
            weights[name] = indices.taken(old[source], name, block)
    weights |= {name: weights[first] for name, first in further.items()}
    made.load_state_dict(weights, assign=True)
    share(made, further)
    made.reset_buffers()
    result: Transformer = made.to(model.embedding.weight.device).eval()
    return result


def smaller_config(config: ModelConfig, kept: Kept) -> ModelConfig:
    """The shape that is left; widths that followed from others are written out."""
    changes: dict[str, object] = {"head_width": config.width_of_head, "mlp_width": config.hidden_width}
    if kept.layers is not None:
        changes["layers"] = len(kept.layers)
        changes["layer_groups"] = config.layer_groups if config.blocks == 1 else None
    if kept.groups is not None:
        groups = _alike(kept.groups)
        changes["heads"] = groups * (config.heads // config.key_value_heads)
        changes["kv_heads"] = groups if config.kv_heads is not None else None
    if kept.neurons is not None:
        changes["mlp_width"] = _alike(kept.neurons)
    if kept.channels is not None:
        changes["width"] = len(kept.channels)
    return dataclasses.replace(config, **changes)  # type: ignore[arg-type]


class _Indices:
    """Which rows and columns of each tensor stay, by what its axes are."""

    def __init__(self, config: ModelConfig, kept: Kept, device: torch.device) -> None:
        self._config, self._kept, self._device = config, kept, device
        self._channels = None if kept.channels is None else self._tensor(kept.channels)

    def source(self, name: str) -> tuple[str, int]:
        """The name that a tensor of the new model has in the old one, and the block there."""
        if not name.startswith("blocks."):
            return name, 0
        _, place, rest = name.split(".", 2)
        shared = self._config.blocks < self._config.layers
        block = int(place) if shared or self._kept.layers is None else self._kept.layers[int(place)]
        return f"blocks.{block}.{rest}", block

    def taken(self, tensor: Tensor, name: str, block: int) -> Tensor:
        """A copy of what stays of a tensor."""
        for axis, chosen in enumerate(self._axes(name, tensor.ndim, block)):
            if chosen is not None:
                tensor = tensor.index_select(axis, chosen)
        return tensor.clone()

    def _axes(self, name: str, dimensions: int, block: int) -> list[Tensor | None]:
        """The indices along each axis: of matrices (out, in), of vectors (out,)."""
        owner, kind = name.rsplit(".", 1)[0], name.rsplit(".", 1)[1]
        rows, columns = self._of_block(owner.split(".", 2)[2], block) if "blocks." in name else self._of_trunk(owner)
        return [rows, columns][:dimensions] if kind == "weight" and dimensions == 2 else [rows]

    def _of_block(self, owner: str, block: int) -> tuple[Tensor | None, Tensor | None]:
        channels = self._channels
        match owner:
            case "attention.qkv":
                return self._projections(block), channels
            case "attention.output":
                return channels, self._queries(block)
            case "mlp.input":
                return self._hidden(block, self._config.gated), channels
            case "mlp.output":
                return channels, self._hidden(block, False)
            case "attention.query_norm" | "attention.key_norm":
                return None, None
        assert owner in ("attention_norm", "mlp_norm"), owner
        return channels, None

    def _of_trunk(self, owner: str) -> tuple[Tensor | None, Tensor | None]:
        channels = self._channels
        narrow = channels if self._config.embedding_width is None else None
        match owner:
            case "embedding" | "position_embedding" | "type_embedding":
                return None, narrow
            case "embedding_norm" | "transform.norm":
                return narrow, None
            case "embedding_projection":
                return channels, narrow
            case "transform.dense":
                return narrow, channels
            case "head":
                reads_embedding = self._config.head == "transform" or self._config.tied_embeddings
                return None, narrow if reads_embedding else channels
            case "norm":
                return channels, None
            case "pooler" | "replaced_head.dense":
                return channels, channels
        assert owner in ("bigrams", "sentence_head", "replaced_head.output"), owner
        return None, channels

    def _projections(self, block: int) -> Tensor | None:
        """Rows of `qkv`: queries, keys, values, head by head."""
        if self._kept.groups is None:
            return None
        config = self._config
        keys = self._spread(self._tensor(self._kept.groups[block]), config.width_of_head)
        queries, size = config.heads * config.width_of_head, config.key_value_heads * config.width_of_head
        chosen = self._queries(block)
        assert chosen is not None
        return torch.cat([chosen, queries + keys, queries + size + keys])

    def _queries(self, block: int) -> Tensor | None:
        if self._kept.groups is None:
            return None
        served = self._config.heads // self._config.key_value_heads
        return self._spread(self._tensor(self._kept.groups[block]), served * self._config.width_of_head)

    def _hidden(self, block: int, gated: bool) -> Tensor | None:
        if self._kept.neurons is None:
            return None
        chosen = self._tensor(self._kept.neurons[block])
        return torch.cat([chosen, chosen + self._config.hidden_width]) if gated else chosen

    def _spread(self, chosen: Tensor, width: int) -> Tensor:
        """The rows of parts of this width."""
        return (chosen[:, None] * width + torch.arange(width, device=self._device)).flatten()

    def _tensor(self, indices: Sequence[int]) -> Tensor:
        return torch.tensor(list(indices), dtype=torch.int64, device=self._device)


def _alike(chosen: Sequence[Sequence[int]]) -> int:
    (count,) = {len(one) for one in chosen}
    return count
