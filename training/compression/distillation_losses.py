"""What a student is told by its teacher: distributions, hidden states, attention scores.

Shape suffixes: B sequences, T tokens, N positions, D width of the student, E of the teacher (or what a head reads), H
heads, K head width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.models.attention import Pattern, score_bias
from training.objectives.cross_entropy import CHUNK_POSITIONS


def soft_loss(
    student_ND: Tensor,
    student_head: nn.Linear,
    teacher_NE: Tensor,
    teacher_head: nn.Linear,
    counted_N: Tensor,
    t: float,
) -> Tensor:
    """Mean of KL(teacher || student) in nats over the positions that count, times t squared; a float32 scalar.

    Both distributions are softmax(logits / t), the logits those of the heads; the factor keeps the gradient's size at
    any temperature (Hinton et al. 2015, section 2). No gradient goes to the teacher. Logits exist for a chunk of
    positions at a time, and the forward pass computes the gradients, as in `linear_cross_entropy`.
    """
    device = student_ND.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else student_ND.dtype
    loss: Tensor = _SoftLoss.apply(  # type: ignore[no-untyped-call]
        student_ND,
        student_head.weight,
        student_head.bias,
        teacher_NE.detach(),
        teacher_head.weight.detach(),
        None if teacher_head.bias is None else teacher_head.bias.detach(),
        counted_N,
        t,
        dtype,
    )
    return loss


class _SoftLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        student_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        teacher_NE: Tensor,
        teacher_VE: Tensor,
        teacher_V: Tensor | None,
        counted_N: Tensor,
        t: float,
        dtype: torch.dtype,
    ) -> Tensor:
        wide = torch.promote_types(dtype, torch.float32)
        size = CHUNK_POSITIONS.get(student_ND.device.type, 4096)
        total = torch.zeros((), dtype=wide, device=student_ND.device)
        of_weight = torch.zeros_like(weight_VD, dtype=wide)
        of_bias = None if bias_V is None else torch.zeros_like(bias_V, dtype=wide)
        of_student = []
        with torch.autocast(student_ND.device.type, enabled=False):
            weight, teacher = weight_VD.to(dtype), teacher_VE.to(dtype)
            bias = None if bias_V is None else bias_V.to(dtype)
            told = None if teacher_V is None else teacher_V.to(dtype)
            parts = (student_ND.to(dtype).split(size), teacher_NE.to(dtype).split(size), counted_N.split(size))
            for read, given, counted in zip(*parts, strict=True):
                log_q = F.log_softmax(F.linear(read, weight, bias).to(wide) / t, dim=1)
                log_p = F.log_softmax(F.linear(given, teacher, told).to(wide) / t, dim=1)
                p = log_p.exp()
                total += ((p * (log_p - log_q)).sum(1) * counted).sum()
                # The factor t squared less the one of logits / t.
                gradient = ((log_q.exp() - p) * (t * counted).unsqueeze(1)).to(dtype)
                of_student.append(gradient @ weight)
                of_weight += gradient.T @ read
                if of_bias is not None:
                    of_bias += gradient.sum(0)
            count = counted_N.sum().clamp(min=1)
            ctx.save_for_backward(torch.cat(of_student), of_weight, of_bias, count)
            return total * t * t / count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        of_student, of_weight, of_bias, count = ctx.saved_tensors
        scale = gradients[0] / count
        bias = None if of_bias is None else of_bias * scale
        return (of_student.to(of_weight.dtype) * scale, of_weight * scale, bias, *[None] * 6)


def cosine_loss(student_BTE: Tensor, teacher_BTE: Tensor, counted_BT: Tensor) -> Tensor:
    """Mean of 1 - cosine of the hidden states of the tokens that count (DistilBERT, Sanh et al. 2019, section 2)."""
    cosine_BT = F.cosine_similarity(student_BTE.float(), teacher_BTE.float(), dim=2)
    return ((1 - cosine_BT) * counted_BT).sum() / counted_BT.sum().clamp(min=1)


def state_loss(student_BTE: Tensor, teacher_BTE: Tensor, counted_BT: Tensor) -> Tensor:
    """Mean of the squared differences of the states of the tokens that count (TinyBERT, Jiao et al. 2020, eq. 8)."""
    squares_BT = (student_BTE.float() - teacher_BTE.float()).square().mean(2)
    return (squares_BT * counted_BT).sum() / counted_BT.sum().clamp(min=1)


def attention_scores(q_BHTK: Tensor, k_BGTK: Tensor) -> Tensor:
    """The scores (B, H, T, T) float32 of queries on keys before the softmax, without masks and biases."""
    heads, groups = q_BHTK.shape[1], k_BGTK.shape[1]
    keys_BHTK = k_BGTK if heads == groups else k_BGTK.repeat_interleave(heads // groups, dim=1)
    return (q_BHTK @ keys_BHTK.mT).float() * q_BHTK.shape[-1] ** -0.5


def attention_loss(student_BHTT: Tensor, teacher_BHTT: Tensor, seen: Tensor) -> Tensor:
    """Mean of the squared differences of the scores that are seen, `seen` bool of a shape that broadcasts to theirs.

    TinyBERT, Jiao et al. 2020, equation 7: of the scores, not of their softmax.
    """
    squares = (student_BHTT - teacher_BHTT).square()
    seen = seen.expand_as(squares)
    return (squares * seen).sum() / seen.sum().clamp(min=1)


def seen_scores(pattern: Pattern, batch: int, tokens: int, device: torch.device) -> Tensor:
    """Which scores (B or 1, H or 1, T, T) a softmax would look at."""
    return torch.isfinite(score_bias(pattern, batch, tokens, device))
