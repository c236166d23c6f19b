"""Attention by the fastest route of the device.

Shape suffixes: B sequences, T tokens (queries, then keys), H query heads, G key and value heads, K head width, N = B H.
A token is seen or not by one rule, `visible`; the routes only compute it differently.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from training.models.cache import KeyValueCache

Route = Literal["multiplied", "fused", "masked", "flex", "read"]

EXPLICIT_TOKENS = 256
"""Longest sequence that is multiplied out on a CPU; twice as long a one where weights are dropped."""

_FLEX_LEAST_WIDTH = 16
_CUDA_BACKENDS = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


class Pattern(NamedTuple):
    """Which tokens see which, and how distance counts."""

    causal: bool = True
    window: int | None = None
    """Tokens at a distance of fewer than this are seen."""
    documents_BT: Tensor | None = None
    """Integers; tokens see each other where they are equal."""
    slopes_H: Tensor | None = None
    """ALiBi: what a score loses for each token of distance."""
    prefix_BT: Tensor | None = None
    """Whether a token, in causal attention, is seen by those before it, too: the prefix of a prefix LM."""

    @property
    def plain(self) -> bool:
        """Whether nothing but causality matters."""
        return self.window is None and not self.by_sequence and self.slopes_H is None

    @property
    def by_sequence(self) -> bool:
        """Whether sequences differ in which of their tokens see which."""
        return self.documents_BT is not None or self.prefix_BT is not None


class Context(NamedTuple):
    """What the attention layers of one forward pass share; `prepare` makes it."""

    pattern: Pattern
    route: Route
    cos_TK: Tensor | None = None
    """Rotary table, with `sin_TK`; None without rotary positions."""
    sin_TK: Tensor | None = None
    bias: Tensor | None = None
    """Added to the scores: (T, T) or (N, T, T) on the route `multiplied`, (B or 1, H or 1, T, T) on `masked`,
    (B or 1, H or 1, T, S) on `read`."""
    blocks: BlockMask | None = None
    """Which blocks of scores the route `flex` computes."""
    cache: KeyValueCache | None = None
    """Where the layer keeps its keys and values, and finds those of the tokens before."""
    layer: int = 0
    queries: int | None = None
    """Only the first so many tokens are asked for: what a layer gathers is theirs alone. None: all are."""


def choose_route(device: torch.device, tokens: int, head_width: int, plain: bool, dropout: float) -> Route:
    """The fastest way for a device, a sequence length, a kind of pattern and a share of dropped weights.

    multiplied: explicit products with an additive mask, for short sequences on a CPU. There the backward pass of
    torch's fused kernel takes three to eight times as long in bfloat16 (2 threads of an AMD EPYC, T from 64 to 256).
    fused: scaled_dot_product_attention without a mask. flex: FlexAttention, which skips what nobody sees, for windows,
    documents and ALiBi on CUDA. masked: scaled_dot_product_attention with an additive mask, where FlexAttention cannot
    be used: on a CPU (it has no backward pass there), with dropout, with very narrow heads, and without gradients.

    Documents take FlexAttention and not variable-length attention, whose list of documents has no fixed length.
    """
    if device.type == "cpu" and tokens <= EXPLICIT_TOKENS * (2 if dropout else 1):
        return "multiplied"
    if plain:
        return "fused"
    fits = device.type == "cuda" and not dropout and head_width >= _FLEX_LEAST_WIDTH
    # Without gradients (evaluation, generation) lengths vary, and FlexAttention would be compiled for each.
    return "flex" if fits and torch.is_grad_enabled() else "masked"


def prepare(
    pattern: Pattern, route: Route, batch: int, tokens: int, heads: int, device: torch.device, dtype: torch.dtype
) -> Context:
    """Build what a route needs, once for all layers of a forward pass; `dtype` is that of the products."""
    if route == "fused":
        return Context(pattern, route)
    if route == "flex":
        return Context(pattern, route, blocks=block_mask(pattern, batch, tokens, device))
    bias = score_bias(pattern, batch, tokens, device).to(dtype)
    if route == "multiplied":
        one = bias.shape[:2] == (1, 1)
        bias = bias[0, 0] if one else bias.expand(batch, heads, tokens, tokens).flatten(0, 1)
    return Context(pattern, route, bias=bias)


def attend(q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor, context: Context, dropout: float = 0.0) -> Tensor:
    """softmax(q k' / sqrt(K) + bias) v, of shape (B, H, T, K); each of G key heads serves H / G query heads in a row.

    `dropout` is the share of attention weights that is dropped. With a cache the keys and values are kept in it, and on
    the route `read` joined by those of the tokens before. Where the context asks for some queries alone, T is theirs.
    """
    if context.queries is not None:
        q_BHTK = q_BHTK[:, :, : context.queries]
        if context.bias is not None:
            context = context._replace(bias=context.bias[..., : context.queries, :])
    if context.cache is not None:
        k_BGTK, v_BGTK = context.cache.extend(context.layer, k_BGTK, v_BGTK)
    if context.route == "read":
        return read(q_BHTK, k_BGTK, v_BGTK, context.bias, q_BHTK.shape[-1] ** -0.5)
    if context.route == "multiplied":
        return _multiplied(q_BHTK, k_BGTK, v_BGTK, context.bias, dropout)
    if context.route == "flex":
        return _flex(q_BHTK, k_BGTK, v_BGTK, context)
    with _preferred_kernels(q_BHTK.device):
        return F.scaled_dot_product_attention(
            q_BHTK,
            k_BGTK,
            v_BGTK,
            attn_mask=context.bias,
            dropout_p=dropout,
            is_causal=context.route == "fused" and context.pattern.causal,
            enable_gqa=q_BHTK.shape[1] != k_BGTK.shape[1],
        )


def read(q_BHTK: Tensor, k_BGSK: Tensor, v_BGSK: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """softmax(scale q k' + bias) v of a few new tokens over all slots: (B, H, T, K), without gradients in mind.

    On a CPU the queries of a group are the rows of one product with its keys, which are so read once.
    """
    if q_BHTK.device.type != "cpu":
        with _preferred_kernels(q_BHTK.device):
            grouped = q_BHTK.shape[1] != k_BGSK.shape[1]
            mask = None if bias is None else bias.to(q_BHTK.dtype)
            return F.scaled_dot_product_attention(
                q_BHTK, k_BGSK, v_BGSK, attn_mask=mask, scale=scale, enable_gqa=grouped
            )
    batch, heads, tokens, width = q_BHTK.shape
    groups, slots = k_BGSK.shape[1:3]
    q_NRK = (q_BHTK * scale).reshape(batch * groups, -1, width)
    scores_NRS = torch.bmm(q_NRK, k_BGSK.flatten(0, 1).mT)
    if bias is not None:
        scores_NRS = (scores_NRS.view(batch, heads, tokens, slots) + bias).view_as(scores_NRS)
    weights_NRS = torch.softmax(scores_NRS, dim=-1).to(v_BGSK.dtype)
    return torch.bmm(weights_NRS, v_BGSK.flatten(0, 1)).view(batch, heads, tokens, width)


def attention_weights(q_BHTK: Tensor, k_BGTK: Tensor, pattern: Pattern) -> Tensor:
    """The weights (B, H, T, T) float32 by the plain formula, whatever the route."""
    batch, heads, tokens, width = q_BHTK.shape
    with torch.autocast(q_BHTK.device.type, enabled=False):
        keys = _as_many_heads(k_BGTK, heads).float()
        scores = q_BHTK.float() @ keys.mT * width**-0.5
        return torch.softmax(scores + score_bias(pattern, batch, tokens, q_BHTK.device), dim=-1)


def visible(pattern: Pattern, batch: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """Whether the tokens `query` see the tokens `key`, for indices that broadcast against each other."""
    seen = query >= key if pattern.causal else query == query
    if pattern.causal and pattern.prefix_BT is not None:
        seen = seen | pattern.prefix_BT[batch, key]
    if pattern.window is not None:
        seen = seen & ((query - key).abs() < pattern.window)
    if pattern.documents_BT is not None:
        seen = seen & (pattern.documents_BT[batch, query] == pattern.documents_BT[batch, key])
    return seen


def score_bias(pattern: Pattern, batch: int, tokens: int, device: torch.device) -> Tensor:
    """What is added to the scores: (B or 1, H or 1, T, T) float32, minus infinity where a token is not seen."""
    place_T = torch.arange(tokens, device=device)
    sequence_B = torch.arange(batch if pattern.by_sequence else 1, device=device)
    seen_BTT = visible(pattern, sequence_B[:, None, None], place_T[:, None], place_T)
    bias = torch.zeros((), device=device)
    if pattern.slopes_H is not None:
        bias = -pattern.slopes_H[:, None, None] * (place_T[:, None] - place_T).abs()
    seen_BHTT = seen_BTT.expand(len(sequence_B), tokens, tokens)[:, None]
    return torch.where(seen_BHTT, bias, float("-inf"))


def block_mask(pattern: Pattern, batch: int, tokens: int, device: torch.device) -> BlockMask:
    """The pattern in blocks, of which FlexAttention skips the empty ones."""

    def seen(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return visible(pattern, b, query, key)

    sequences = batch if pattern.by_sequence else None
    build = _compiled(create_block_mask, device)
    mask: BlockMask = build(seen, sequences, None, tokens, tokens, device=device)
    return mask


def _multiplied(q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor, bias: Tensor | None, dropout: float) -> Tensor:
    assert bias is not None
    heads, width = q_BHTK.shape[1], q_BHTK.shape[-1]
    k_NTK, v_NTK = (_as_many_heads(x_BGTK, heads).flatten(0, 1) for x_BGTK in (k_BGTK, v_BGTK))
    scores_NTT = torch.baddbmm(bias, q_BHTK.flatten(0, 1), k_NTK.mT, alpha=width**-0.5)
    weights_NTT = torch.softmax(scores_NTT, dim=-1)
    if dropout:
        weights_NTT = F.dropout(weights_NTT, dropout)
    return torch.bmm(weights_NTT, v_NTK).view_as(q_BHTK)


def _flex(q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor, context: Context) -> Tensor:
    slopes_H = context.pattern.slopes_H

    def penalized(score: Tensor, b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        assert slopes_H is not None
        return score - slopes_H[h] * (query - key).abs()

    y_BHTK: Tensor = _compiled(flex_attention, q_BHTK.device)(
        q_BHTK,
        k_BGTK,
        v_BGTK,
        score_mod=None if slopes_H is None else penalized,
        block_mask=context.blocks,
        enable_gqa=q_BHTK.shape[1] != k_BGTK.shape[1],
    )
    return y_BHTK


def _as_many_heads(x_BGTK: Tensor, heads: int) -> Tensor:
    groups = x_BGTK.shape[1]
    return x_BGTK if groups == heads else x_BGTK.repeat_interleave(heads // groups, dim=1)


def _preferred_kernels(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """On CUDA cuDNN's attention before Flash's: on Hopper it is the faster of the two."""
    if device.type != "cuda":
        return contextlib.nullcontext()
    return sdpa_kernel(_CUDA_BACKENDS, set_priority=True)


def _compiled(function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """FlexAttention is fast only when compiled: by itself, unless the whole model is being compiled."""
    if device.type != "cuda" or torch.compiler.is_compiling():
        return function
    return _compile_once(function)


@functools.cache
def _compile_once(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=False)
