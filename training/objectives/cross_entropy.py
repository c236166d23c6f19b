"""Cross-entropy of a linear head, in chunks of positions, so that the (N, V) logits never exist as a whole, or at once.

N positions, D width of the hidden state, V vocabulary. In chunks, the forward pass computes the gradients too, since it
holds the probabilities that they need (as in Cut Your Losses, Wijmans et al. 2024, section 4, without its filtering).
The chunks of a CPU stay in its caches, which makes it faster there than separate passes over all logits.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from training.rows import IGNORED

CHUNK_POSITIONS = {"cpu": 512, "cuda": 4096}


def linear_cross_entropy(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    *,
    bias_V: Tensor | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    chunks: bool = True,
) -> Tensor:
    """Mean cross-entropy, a float32 scalar, of softmax(hidden @ weight.T + bias) over the targets not IGNORED.

    `label_smoothing` is the share of each target that is spread evenly over the vocabulary (Szegedy et al. 2016,
    section 7); `z_loss` is the weight of the squared log-normaliser that is added (PaLM, section 5). `chunks` says
    whether to go in chunks. Under autocast the products run in its dtype, otherwise in that of `hidden_ND`; float64
    gives float64. 0 where all targets are IGNORED. Hidden states that are not finite make a loss that is not.

    A single loss in chunks, without smoothing and z-loss, is 87.3 at most, where the probability leaves float32; the
    gradient does not mind.
    """
    if not chunks:
        return _whole(hidden_ND, weight_VD, bias_V, targets_N, label_smoothing, z_loss)
    device = hidden_ND.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_ND.dtype
    loss: Tensor = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden_ND, weight_VD, bias_V, targets_N, dtype, label_smoothing, z_loss
    )
    return loss


@torch.no_grad()
def token_losses(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, bias_V: Tensor | None = None) -> Tensor:
    """Cross-entropy (N,) of each position in float32, without a gradient; 0 where the target is IGNORED."""
    with torch.autocast(hidden_ND.device.type, enabled=False):
        return torch.cat(
            [
                F.cross_entropy(F.linear(hidden, weight_VD, bias_V), targets, ignore_index=IGNORED, reduction="none")
                for hidden, targets in _chunks(hidden_ND.float(), targets_N)
            ]
        )


@torch.no_grad()
def losses_and_hits(
    hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, bias_V: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Cross-entropy (N,) float32, 0 where the target is IGNORED, and whether the target is the likeliest token (N,)."""
    losses, hits = [], []
    with torch.autocast(hidden_ND.device.type, enabled=False):
        for hidden, targets in _chunks(hidden_ND.float(), targets_N):
            logits = F.linear(hidden, weight_VD, bias_V)
            losses.append(F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="none"))
            hits.append(logits.argmax(1) == targets)
    return torch.cat(losses), torch.cat(hits)


def _whole(
    hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, targets_N: Tensor, smoothing: float, z_loss: float
) -> Tensor:
    """The same by torch's own functions, which a compiler fuses; float32 from the logits on."""
    logits_NV = F.linear(hidden_ND, weight_VD, bias_V)
    counted_N = targets_N != IGNORED
    with torch.autocast(hidden_ND.device.type, enabled=False):
        logits_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))
        total = F.cross_entropy(logits_NV, targets_N, ignore_index=IGNORED, reduction="sum", label_smoothing=smoothing)
        if z_loss:
            total = total + z_loss * (logits_NV.logsumexp(1).square() * counted_N).sum()
        return total / counted_N.sum().clamp(min=1)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        dtype: torch.dtype,
        smoothing: float,
        z_loss: float,
    ) -> Tensor:
        with torch.autocast(hidden_ND.device.type, enabled=False):
            weight = weight_VD.to(dtype)
            accumulator = torch.float64 if dtype == torch.float64 else torch.float32
            bias = None if bias_V is None else bias_V.to(dtype)
            mean_weight = weight_VD.mean(0, dtype=accumulator).to(dtype) if smoothing else None
            mean_bias = bias_V.mean(dtype=accumulator) if smoothing and bias_V is not None else None
            bias_gradient = None if bias_V is None else torch.zeros_like(bias_V, dtype=accumulator)
            hidden_gradients = []
            weight_gradient = torch.zeros_like(weight_VD, dtype=accumulator)
            total = torch.zeros((), dtype=accumulator, device=hidden_ND.device)
            for hidden, targets in _chunks(hidden_ND.to(dtype), targets_N):
                counted = targets != IGNORED
                even = None if mean_weight is None else (mean_weight, mean_bias)
                losses, gradient = _chunk(hidden, weight, bias, even, targets.clamp(min=0), smoothing, z_loss)
                total += (losses * counted).sum()
                # Ignored positions are taken out of the small factors, not of the (chunk, V) one.
                of_hidden = gradient @ weight
                kept = hidden * counted.unsqueeze(1)
                if mean_weight is not None:
                    of_hidden -= smoothing * mean_weight
                    weight_gradient -= smoothing / len(weight) * kept.sum(0, dtype=accumulator)
                hidden_gradients.append(of_hidden * counted.unsqueeze(1))
                weight_gradient += gradient.T @ kept
                if bias_gradient is not None:
                    bias_gradient += (counted.to(dtype) @ gradient).to(accumulator)
                    if smoothing:
                        bias_gradient -= smoothing / len(weight) * counted.sum(dtype=accumulator)
            count = (targets_N != IGNORED).sum().clamp(min=1)
            ctx.save_for_backward(torch.cat(hidden_gradients), weight_gradient, bias_gradient, count)
            return (total / count).float() if accumulator == torch.float32 else total / count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden_gradient, weight_gradient, bias_gradient, count = ctx.saved_tensors
        scale = gradients[0] / count
        of_bias = None if bias_gradient is None else bias_gradient * scale
        of_hidden = hidden_gradient.to(weight_gradient.dtype) * scale
        return of_hidden, weight_gradient * scale, of_bias, None, None, None, None


def _chunk(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    even: tuple[Tensor, Tensor | None] | None,
    targets_N: Tensor,
    smoothing: float,
    z_loss: float,
) -> tuple[Tensor, Tensor]:
    """Losses (N,), and the gradient of the logits (N, V) but for the even share of a smoothed target.

    `even`, the means of weights (D,) and bias over the vocabulary, is needed for smoothing only.
    """
    accumulator = torch.promote_types(hidden_ND.dtype, torch.float32)
    # Not gather and scatter_, which copies the whole of a bfloat16 tensor on a CPU.
    target = (torch.arange(len(targets_N), device=targets_N.device), targets_N)
    logits_NV = F.linear(hidden_ND, weight_VD, bias_V)
    gradient_NV = torch.softmax(logits_NV, dim=1)
    if even is not None or z_loss:
        # Read off at the likeliest token, whose probability is never too small to have a logarithm.
        normalizer_N = logits_NV.amax(1).to(accumulator) - gradient_NV.amax(1).to(accumulator).log()
        expected_N = logits_NV[target]
        if even is not None:
            mean_N = hidden_ND @ even[0] if even[1] is None else hidden_ND @ even[0] + even[1]
            expected_N = (1 - smoothing) * expected_N + smoothing * mean_N
        losses_N = normalizer_N - expected_N + z_loss * normalizer_N.square()
        if z_loss:
            gradient_NV *= (1 + 2 * z_loss * normalizer_N).to(hidden_ND.dtype).unsqueeze(1)
        likelihood_N = gradient_NV[target]
    else:
        likelihood_N = gradient_NV[target]
        losses_N = -likelihood_N.to(accumulator).clamp(min=torch.finfo(torch.float32).tiny).log()
    gradient_NV[target] = likelihood_N - (1 - smoothing)
    return losses_N, gradient_NV


def _chunks(hidden_ND: Tensor, targets_N: Tensor) -> list[tuple[Tensor, Tensor]]:
    size = CHUNK_POSITIONS.get(hidden_ND.device.type, 4096)
    return list(zip(hidden_ND.split(size), targets_N.split(size), strict=True))
