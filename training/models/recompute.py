"""Activation checkpointing: what a block keeps for its backward pass, and what is computed again (Chen et al. 2016)."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._higher_order_ops.flex_attention import flex_attention as flex_attention_op
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

Recompute = Literal["none", "products", "blocks"]

_aten = torch.ops.aten
# Not baddbmm: on a CPU it makes the scores of attention, T values for each query, from operands that are kept.
_PRODUCTS: list[Any] = [
    _aten.mm.default,
    _aten.addmm.default,
    _aten.bmm.default,
    _aten._scaled_mm.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
    flex_attention_op,
]


def recomputed(function: Callable[[Tensor], Tensor], x: Tensor, policy: Recompute, random: bool) -> Tensor:
    """Apply a function whose activations are computed again in the backward pass, all but those that the policy keeps.

    `products` keeps the results of matrix products and of attention, `blocks` nothing but `x`. `random`: whether the
    function draws random numbers, which then are the same again.
    """
    if policy == "none":
        return function(x)
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": random}
    if policy == "products":
        options["context_fn"] = functools.partial(create_selective_checkpoint_contexts, _PRODUCTS)
    with _no_autocast_cache(x.device.type):
        y: Tensor = checkpoint(function, x, **options)
    return y


def drops(block: nn.Module) -> bool:
    """Whether any part of a block, an adapter put into it too, drops activations."""
    return any(isinstance(part, nn.Dropout) and part.p > 0 for part in block.modules())


def _no_autocast_cache(device: str) -> contextlib.AbstractContextManager[Any]:
    """Cast weights at each use: a cast that the cache spares a shared block would be missed when it runs again."""
    if not torch.is_autocast_enabled(device):
        return contextlib.nullcontext()
    return torch.autocast(device, torch.get_autocast_dtype(device), cache_enabled=False)
