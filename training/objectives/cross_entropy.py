"""Cross-entropy of a linear head, a chunk of positions at a time: the (N, V) logits never exist as a whole.

N positions, D width of the hidden state, V vocabulary. The forward pass computes the gradients too, since it holds the
probabilities that they need (as in Cut Your Losses, Wijmans et al. 2024, section 4, without its filtering). The chunks
of a CPU stay in its second-level cache, which makes it faster there than separate passes over all logits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

IGNORED = -100
"""Target of a position that does not count."""

CHUNK_POSITIONS = {"cpu": 512, "cuda": 4096}


def linear_cross_entropy(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
    """Mean cross-entropy, a float32 scalar, of softmax(hidden @ weight.T) over the targets that are not IGNORED.

    Under autocast the products run in its dtype, otherwise in that of `hidden_ND`. A single loss is 87.3 at most, where
    the probability leaves float32; the gradient does not mind.
    """
    device = hidden_ND.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_ND.dtype
    loss: Tensor = _LinearCrossEntropy.apply(hidden_ND, weight_VD, targets_N, dtype)  # type: ignore[no-untyped-call]
    return loss


@torch.no_grad()
def token_losses(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
    """Cross-entropy (N,) of each position in float32, without a gradient; 0 where the target is IGNORED."""
    with torch.autocast(hidden_ND.device.type, enabled=False):
        return torch.cat(
            [
                torch.nn.functional.cross_entropy(hidden @ weight_VD.T, targets, ignore_index=IGNORED, reduction="none")
                for hidden, targets in _chunks(hidden_ND.float(), targets_N)
            ]
        )


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, dtype: torch.dtype) -> Tensor:
        with torch.autocast(hidden_ND.device.type, enabled=False):
            weight = weight_VD.to(dtype)
            accumulator = torch.float64 if dtype == torch.float64 else torch.float32
            hidden_gradients = []
            weight_gradient = torch.zeros_like(weight_VD, dtype=accumulator)
            total = torch.zeros((), dtype=accumulator, device=hidden_ND.device)
            for hidden, targets in _chunks(hidden_ND.to(dtype), targets_N):
                counted = targets != IGNORED
                # Not gather and scatter_, which copies the whole of a bfloat16 tensor on a CPU.
                target = (torch.arange(len(targets), device=targets.device), targets.clamp(min=0))
                probabilities = torch.softmax(hidden @ weight.T, dim=1)
                likelihood = probabilities[target]
                surprise = -likelihood.to(accumulator).clamp(min=torch.finfo(torch.float32).tiny).log()
                total += (surprise * counted).sum()
                probabilities[target] = likelihood - 1
                # Ignored positions are taken out of the small factors, not of the (chunk, V) one.
                hidden_gradients.append((probabilities @ weight) * counted.unsqueeze(1))
                weight_gradient += probabilities.T @ (hidden * counted.unsqueeze(1))
            count = (targets_N != IGNORED).sum().clamp(min=1)
            ctx.save_for_backward(torch.cat(hidden_gradients), weight_gradient, count)
            return (total / count).float() if accumulator == torch.float32 else total / count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        hidden_gradient, weight_gradient, count = ctx.saved_tensors
        scale = gradients[0] / count
        return hidden_gradient.to(weight_gradient.dtype) * scale, weight_gradient * scale, None, None


def _chunks(hidden_ND: Tensor, targets_N: Tensor) -> list[tuple[Tensor, Tensor]]:
    size = CHUNK_POSITIONS.get(hidden_ND.device.type, 4096)
    return list(zip(hidden_ND.split(size), targets_N.split(size), strict=True))
