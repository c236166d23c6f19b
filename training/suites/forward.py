"""One pass of a trunk over trees of tokens (trees.py), by the same blocks as over sequences.

Shape suffixes: B rows, T nodes of a row, P nodes that a token is predicted from, D width, E what the head reads, H
heads, K head width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.models.attention import Context, Pattern
from training.models.transformer import Transformer, product_dtype
from training.suites.trees import Tree

_HEAD_LOGITS = {"cpu": 1 << 22, "cuda": 1 << 28}
"""Logits that are held at once."""


class Rows(NamedTuple):
    """Trees one below another, padded on the right with nodes that see themselves alone."""

    ids_BT: Tensor
    depths_BT: Tensor
    previous_BT: Tensor
    """The token before each on its path, 0 for none."""
    ends_BT: Tensor


class Prediction(NamedTuple):
    """What the model makes of the tokens that were asked for."""

    log_probabilities: Tensor
    """float32."""
    likeliest: Tensor
    """bool: no other token is likelier."""


def stack(trees: Sequence[Tree], device: torch.device) -> Rows:
    """The rows of trees."""
    longest = max(len(tree.tokens_N) for tree in trees)
    shape = (len(trees), longest)
    ids, depths, previous = (np.zeros(shape, dtype=np.int64) for _ in range(3))
    ends = np.broadcast_to(np.arange(1, longest + 1), shape).copy()
    for row, tree in enumerate(trees):
        count = len(tree.tokens_N)
        ids[row, :count], depths[row, :count], ends[row, :count] = tree.tokens_N, tree.depths_N, tree.ends_N
        previous[row, :count] = np.where(tree.parents_N < 0, 0, tree.tokens_N[tree.parents_N])
    return Rows(*(torch.from_numpy(array).to(device) for array in (ids, depths, previous, ends)))


def hidden(model: Transformer, rows: Rows) -> Tensor:
    """The residual stream (B, T, D) as the heads read it, causal in each path of each tree."""
    config = model.config
    x_BTD = _embedded(model, rows)
    everywhere = _context(model, rows, x_BTD, None)
    windowed = everywhere if config.window is None else _context(model, rows, x_BTD, config.window)
    for layer in range(config.layers):
        context = everywhere if model.sees_everything(layer) else windowed
        x_BTD = model.blocks[layer * config.blocks // config.layers](x_BTD, context)
    if model.norm is not None:
        x_BTD = model.norm(x_BTD)
    return x_BTD * model.output_multiplier if model.output_multiplier != 1 else x_BTD


def predict(model: Transformer, hidden_PD: Tensor, asked: Tensor, wanted: Tensor) -> Prediction:
    """What follows nodes whose hidden states are given: of the nodes `asked` (1-D, ascending) the tokens `wanted`.

    The head computes in float32, some nodes at a time.
    """
    assert model.head is not None
    weight_VE, bias_V = model.head.weight.float(), model.head.bias
    read_PE = model.readout(hidden_PD).float()
    step = max(1, _HEAD_LOGITS.get(read_PE.device.type, 1 << 22) // len(weight_VE))
    begins = range(0, len(read_PE), step)
    bounds = [*torch.searchsorted(asked, torch.tensor(begins, device=asked.device)).tolist(), len(asked)]
    logs, likeliest = [], []
    for begin, first, last in zip(begins, bounds, bounds[1:], strict=False):
        logits_PV = F.linear(read_PE[begin : begin + step], weight_VE, bias_V)
        rows, columns = asked[first:last] - begin, wanted[first:last]
        likeliest.append(logits_PV[rows, columns] >= logits_PV.amax(1)[rows])
        # Fused, where torch.logsumexp writes out every step: six times as fast on a CPU.
        logs.append(torch.log_softmax(logits_PV, dim=1)[rows, columns])
    return Prediction(torch.cat(logs), torch.cat(likeliest))


def _embedded(model: Transformer, rows: Rows) -> Tensor:
    """The stream that the first block reads: as the trunk makes it, with places and previous tokens of the tree."""
    x_BTE: Tensor = model.embedding(rows.ids_BT)
    if model.bigrams is not None:
        pairs = torch.stack([rows.previous_BT, rows.ids_BT], dim=-1).flatten(0, 1)
        both_BTE = x_BTE + model.bigrams(pairs)[:, 1].view_as(x_BTE)
        x_BTE = F.rms_norm(both_BTE, (model.config.width,), eps=model.config.norm_epsilon)
    if model.type_embedding is not None:
        x_BTE = x_BTE + model.type_embedding.weight[0]
    if model.position_embedding is not None:
        x_BTE = x_BTE + model.position_embedding(rows.depths_BT)
    if model.embedding_norm is not None:
        x_BTE = model.embedding_norm(x_BTE)
    if x_BTE.device.type == "cuda":
        x_BTE = x_BTE.to(product_dtype(x_BTE))
    return x_BTE if model.embedding_projection is None else model.embedding_projection(x_BTE)


def _context(model: Transformer, rows: Rows, x_BTD: Tensor, window: int | None) -> Context:
    """Which node sees which, and the turns of rotary positions, for the layers with this window."""
    tables = (model.cos_TK, model.sin_TK)
    if window is not None and model.windowed_cos_TK is not None:
        tables = (model.windowed_cos_TK, model.windowed_sin_TK)
    turns = [None if table is None else table[rows.depths_BT][:, None] for table in tables]
    bias = _bias(model, rows, window).to(product_dtype(x_BTD))
    return Context(Pattern(True, window, None, model.slopes_H), "masked", turns[0], turns[1], bias)


def _bias(model: Transformer, rows: Rows, window: int | None) -> Tensor:
    """What is added to the scores: (B, 1 or H, T, T) float32, minus infinity where a node is not seen."""
    place_T = torch.arange(rows.ids_BT.shape[1], device=rows.ids_BT.device)
    seen_BTT = (place_T[:, None] >= place_T) & (place_T[:, None] < rows.ends_BT[:, None, :])
    distance_BTT = rows.depths_BT[:, :, None] - rows.depths_BT[:, None, :]
    if window is not None:
        seen_BTT = seen_BTT & (distance_BTT < window)
    bias = torch.zeros((), device=rows.ids_BT.device)
    if model.slopes_H is not None:
        bias = -model.slopes_H[:, None, None] * distance_BTT[:, None].abs()
    return torch.where(seen_BTT[:, None], bias, float("-inf"))
