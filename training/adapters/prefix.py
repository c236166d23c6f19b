"""Prefix tuning: keys and values before those of the tokens, in each layer (Li & Liang 2021, section 4).

All tokens see the prefix, whatever their window or document. With learned or rotary positions they count from behind
it, as in transformers, where the prefix is handed in as past keys and values; ALiBi has no penalty for it.

Shape suffixes: B sequences, T tokens, P prefix, H query heads, G key and value heads, K head width.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.models.attention import Context, Pattern, attend, score_bias
from training.models.positions import document_positions, rotary_table, rotate, yarn_temperature
from training.models.transformer import Attention, Block, Transformer, product_dtype


class _Widened(NamedTuple):
    """The pattern of a pass, of which all its contexts hold the same, and what the layers with a prefix make of it."""

    pattern: Pattern
    result: Context


class PrefixedAttention(Attention):
    """An attention layer with a prefix (2, P, G, K) of keys and values; made of an existing one by `prefixed`."""

    prefix: nn.Parameter
    cos_K: Tensor | None
    sin_K: Tensor | None
    shared: list[_Widened]
    """Of the last pass; one list for all layers of a model, filled by the first of them."""

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        """What each position that is asked for gathers (B, T, D) from the prefix and from those that it sees."""
        widened = self._widened(context, x_BTD)._replace(queries=context.queries)
        q_BHTK, k_BGTK, v_BGTK = self.projections(x_BTD, widened)
        if context.cache is not None:
            k_BGTK, v_BGTK = context.cache.extend(context.layer, k_BGTK, v_BGTK)
        prefix_BGPK, values_BGPK = self._prefix(x_BTD.shape[0], k_BGTK.dtype)
        k_BGSK, v_BGSK = torch.cat([prefix_BGPK, k_BGTK], 2), torch.cat([values_BGPK, v_BGTK], 2)
        y_BHTK = attend(q_BHTK, k_BGSK, v_BGSK, widened, self.dropout if self.training else 0.0)
        y_BTD: Tensor = self.output(y_BHTK.transpose(1, 2).flatten(2))
        return y_BTD

    @torch.no_grad()
    def probabilities(self, x_BTD: Tensor, context: Context) -> Tensor:
        """The attention weights (B, H, T, T) float32 of tokens on tokens; what they lack to 1 is on the prefix."""
        q_BHTK, k_BGTK, _ = self.projections(x_BTD, self._widened(context, x_BTD))
        batch, heads, tokens, width = q_BHTK.shape
        prefix_BGPK, _ = self._prefix(batch, k_BGTK.dtype)
        k_BHSK = torch.cat([prefix_BGPK, k_BGTK], 2).repeat_interleave(heads // k_BGTK.shape[1], dim=1)
        bias = F.pad(score_bias(context.pattern, batch, tokens, x_BTD.device), (self.prefix.shape[1], 0))
        with torch.autocast(x_BTD.device.type, enabled=False):
            scores = q_BHTK.float() @ k_BHSK.float().mT * width**-0.5 + bias
            return torch.softmax(scores, dim=-1)[..., self.prefix.shape[1] :]

    def _prefix(self, batch: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Keys and values (B, G, P, K) of the prefix."""
        keys_GPK, values_GPK = self.prefix.transpose(1, 2)
        if self.cos_K is not None and self.sin_K is not None:
            # The tokens keep their places from 0 on: turning the keys back by P is the same as moving the tokens on.
            keys_GPK = rotate(keys_GPK, self.cos_K, -self.sin_K)
        return keys_GPK.to(dtype).expand(batch, -1, -1, -1), values_GPK.to(dtype).expand(batch, -1, -1, -1)

    def _widened(self, context: Context, x_BTD: Tensor) -> Context:
        """The context with room for the prefix and without a cache, made once for all layers that share it."""
        if torch.compiler.is_compiling():  # which finds by itself what is computed twice
            return _with_prefix(context._replace(cache=None), self.prefix.shape[1], x_BTD)
        for made in self.shared:
            if made.pattern is context.pattern:
                return made.result
        result = _with_prefix(context._replace(cache=None), self.prefix.shape[1], x_BTD)
        if len(self.shared) == 2:  # of layers with a window, and of those without
            self.shared.pop(0)
        self.shared.append(_Widened(context.pattern, result))
        return result


class ShiftedEmbedding(nn.Embedding):
    """Learned positions that begin at `shift`; made of an existing embedding."""

    shift: int

    def forward(self, places: Tensor) -> Tensor:
        """Vectors (..., D) of places (...) int."""
        return super().forward(places + self.shift)


def insert(trunk: Transformer, prefix_tokens: int) -> dict[str, nn.Parameter]:
    """Give each block's attention a prefix, and return the parameters by name; they are drawn from a standard normal.

    Learned positions leave the model as much less context; raises ValueError where that is nothing.
    """
    config = trunk.config
    _check(trunk, prefix_tokens)
    heads, width = config.key_value_heads, config.width_of_head
    # Drawn at once, in the layout of peft's embedding: so one seed gives both the same prefix.
    drawn = torch.randn(prefix_tokens, config.blocks, 2, heads, width)
    shared: list[_Widened] = []
    parameters = {}
    for index, block in enumerate(trunk.blocks):
        assert isinstance(block, Block)
        weight = block.attention.qkv.weight
        prefix = nn.Parameter(drawn[:, index].transpose(0, 1).contiguous().to(weight.device))
        prefixed(block.attention, prefix, _turn(trunk, index, prefix_tokens), shared)
        parameters[f"blocks.{index}.attention.prefix"] = prefix
    if trunk.position_embedding is not None:
        trunk.position_embedding.__class__ = ShiftedEmbedding
        trunk.position_embedding.shift = prefix_tokens  # type: ignore[assignment]
        # What reads with the model asks it how much it may read.
        trunk.config = replace(config, context_length=config.context_length - prefix_tokens)
    return parameters


def remove(trunk: Transformer) -> None:
    """Undo `insert`."""
    for block in trunk.blocks:
        assert isinstance(block, Block)
        attention = block.attention
        assert isinstance(attention, PrefixedAttention)
        for name in ("prefix", "cos_K", "sin_K", "shared"):
            delattr(attention, name)
        attention.__class__ = Attention  # type: ignore[assignment]
    if isinstance(trunk.position_embedding, ShiftedEmbedding):
        trunk.config = replace(trunk.config, context_length=trunk.position_embedding.num_embeddings)
        del trunk.position_embedding.shift
        trunk.position_embedding.__class__ = nn.Embedding  # type: ignore[assignment]


def prefixed(
    attention: Attention, prefix: nn.Parameter, turn: tuple[Tensor, Tensor] | None, shared: list[_Widened]
) -> None:
    """Make an attention layer one with a prefix, in place: its weights keep their names, and whoever holds it, it."""
    attention.__class__ = PrefixedAttention
    attention.prefix = prefix
    for name, half in zip(("cos_K", "sin_K"), turn or (None, None), strict=True):
        attention.register_buffer(name, half, persistent=False)
    attention.shared = shared  # type: ignore[assignment]


def _check(trunk: Transformer, prefix_tokens: int) -> None:
    config = trunk.config
    if config.positions == "learned" and prefix_tokens >= config.context_length:
        raise ValueError(
            f"prefix_tokens must be less than the model's context length of {config.context_length}, "
            f"got {prefix_tokens}"
        )


def _turn(trunk: Transformer, index: int, prefix_tokens: int) -> tuple[Tensor, Tensor] | None:
    """Cosine and sine (K / 2,) of the angle of position P in a block; None without rotary positions."""
    config = trunk.config
    if config.positions != "rotary":
        return None
    layer = index * config.layers // config.blocks
    theta = config.rope_theta
    if config.rope_theta_windowed is not None and not trunk.sees_everything(layer):
        theta = config.rope_theta_windowed
    table = rotary_table(prefix_tokens + 1, config.width_of_head, theta, config.rope_scaling)
    temperature = yarn_temperature(config.rope_scaling)
    device = trunk.embedding.weight.device
    cos_K, sin_K = (half_TK[prefix_tokens].to(device) / temperature for half_TK in table)
    return cos_K, sin_K


def _with_prefix(context: Context, prefix_tokens: int, x_BTD: Tensor) -> Context:
    """A context in which P keys, which all see, come before the others: by a mask, unless all see all.

    Rotary positions then begin anew in each document, as the prefix is as far from the first token of each.
    """
    if context.pattern.documents_BT is not None and context.cos_TK is not None and context.sin_TK is not None:
        places_B1T = document_positions(context.pattern.documents_BT)[:, None]
        context = context._replace(cos_TK=context.cos_TK[places_B1T], sin_TK=context.sin_TK[places_B1T])
    if context.bias is not None:
        return context._replace(bias=F.pad(context.bias, (prefix_tokens, 0)))
    if context.route == "read" or (context.route == "fused" and not context.pattern.causal):
        return context
    batch, tokens = x_BTD.shape[:2]
    bias = score_bias(context.pattern, batch, tokens, x_BTD.device).to(product_dtype(x_BTD))
    return context._replace(route="masked", bias=F.pad(bias, (prefix_tokens, 0)), blocks=None)
