"""Which token comes next: penalties, limits on what may be drawn, and the draw, in the order of transformers.

Shape suffixes: B sequences, V vocabulary, C candidates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.config.generation import GenerationConfig


class Constraint(Protocol):
    """What a text must be."""

    finished: bool
    """Whether nothing may follow any more."""

    def allowed(self) -> NDArray[np.bool_]:
        """(V,) what may come next, the end of the text where that may be."""
        ...

    def advance(self, token: int) -> None:
        """Take the token that was chosen."""
        ...


def next_token(
    logits_1V: Tensor,
    ids: Sequence[int],
    settings: GenerationConfig,
    random: torch.Generator,
    constraint: Constraint | None = None,
) -> int | None:
    """The token behind ids whose logits these are; None where the constraint lets nothing follow.

    The constraint is not told of it. Raises ValueError as `check_numbers` and `choose` do.
    """
    check_numbers(logits_1V)
    if constraint is not None:
        allowed_V = _allowed(constraint, logits_1V.shape[-1])
        if not bool(allowed_V.any()):
            return None
        logits_1V = logits_1V.masked_fill(~allowed_V.to(logits_1V.device), float("-inf"))
    return choose(adjusted(logits_1V, [ids], settings)[0], settings, random)


def _allowed(constraint: Constraint, vocabulary_size: int) -> Tensor:
    """What may come next (V,) bool; ids of the model beyond those that the constraint knows may not."""
    given = torch.from_numpy(np.array(constraint.allowed()))[:vocabulary_size]
    return torch.nn.functional.pad(given, (0, vocabulary_size - len(given)))


def check_numbers(logits_BV: Tensor) -> None:
    """Raise ValueError where a row of logits has no finite largest one, as those of damaged weights have."""
    if not bool(torch.isfinite(logits_BV.amax(dim=-1)).all()):
        raise ValueError(
            "the model's logits are no numbers: its weights hold NaN or infinity, or overflow; take another checkpoint"
        )


def adjusted(logits_BV: Tensor, ids: Sequence[Sequence[int]], settings: GenerationConfig) -> Tensor:
    """The scores (B, V) after repetition penalty and blocked n-grams, for rows that have these ids so far."""
    if settings.repetition_penalty != 1.0:
        logits_BV = torch.stack(
            [_penalized(row_V, seen, settings.repetition_penalty) for row_V, seen in zip(logits_BV, ids, strict=True)]
        )
    if settings.no_repeat_ngram:
        logits_BV = logits_BV.clone()
        for row_V, seen in zip(logits_BV, ids, strict=True):
            row_V[list(repeating(seen, settings.no_repeat_ngram))] = float("-inf")
    return logits_BV


def _penalized(logits_V: Tensor, ids: Sequence[int], penalty: float) -> Tensor:
    """Scores of the ids divided by the penalty where positive, else multiplied (Keskar et al. 2019, equation 1)."""
    seen = torch.tensor(sorted(set(ids)), dtype=torch.int64, device=logits_V.device)
    score = logits_V[seen]
    return logits_V.index_copy(0, seen, torch.where(score < 0, score * penalty, score / penalty))


def repeating(ids: Sequence[int], n: int) -> Iterator[int]:
    """Yield the tokens that would complete an n-gram that the ids hold already."""
    if len(ids) + 1 < n:
        return
    last = list(ids[len(ids) - n + 1 :])
    for place in range(len(ids) - n + 1):
        if list(ids[place : place + n - 1]) == last:
            yield ids[place + n - 1]


def distribution(logits_V: Tensor, settings: GenerationConfig) -> tuple[Tensor, Tensor]:
    """The ids (C,) that may be drawn, ascending, and their probabilities (C,) float64, for a temperature above 0.

    Each limit looks at the probabilities among those that the one before it left. Logits are finite but for those of
    barred tokens, which are minus infinity; one is not barred at least.
    """
    ids_C = _likeliest(logits_V, settings.top_k)
    scores_C = logits_V[ids_C].double()
    # The largest becomes 0, so that no temperature makes it infinite.
    scores_C = (scores_C - scores_C.amax()) / settings.temperature
    for limit in (_top_p, _min_p, _typical):
        kept_C = limit(scores_C, settings)
        if kept_C is not None:
            ids_C, scores_C = ids_C[kept_C], scores_C[kept_C]
    return ids_C, torch.softmax(scores_C, dim=0)


def dense(logits_V: Tensor, settings: GenerationConfig) -> Tensor:
    """The probabilities (V,) float64 that are drawn from; a temperature of 0 leaves one token."""
    result_V = torch.zeros(logits_V.shape[0], dtype=torch.float64)
    if settings.greedy:
        result_V[int(logits_V.argmax())] = 1.0
        return result_V
    ids_C, probability_C = distribution(logits_V, settings)
    result_V[ids_C] = probability_C
    return result_V


def choose(logits_V: Tensor, settings: GenerationConfig, random: torch.Generator) -> int:
    """Choose a token by its logits (V,); draws in float64 on the CPU, so that a seed means the same on every device.

    Raises ValueError where no token may come: blocked n-grams and a grammar together can bar all of them.
    """
    token = int(logits_V.argmax())
    if logits_V[token] == float("-inf"):
        raise ValueError("no token may come next: no_repeat_ngram bars all that the text allows; leave it out")
    if settings.greedy:
        return token
    ids_C, probability_C = distribution(logits_V.cpu(), settings)
    return int(ids_C[draw(probability_C, random)])


def draw(probability_C: Tensor, random: torch.Generator) -> int:
    """Draw a place by its probability, with one random number; the probabilities need not add up to 1."""
    mass_C = probability_C.cumsum(0)
    point = torch.rand((), generator=random, dtype=torch.float64) * mass_C[-1]
    return min(int(torch.searchsorted(mass_C, point, right=True)), len(mass_C) - 1)


def _likeliest(logits_V: Tensor, k: int) -> Tensor:
    """The ids of the k largest logits and of those that tie with the last of them, but of none of minus infinity."""
    least = float("-inf")
    if 0 < k < len(logits_V):
        least = float(torch.topk(logits_V, k).values[-1])
    kept_V = logits_V > least if least == float("-inf") else logits_V >= least
    return kept_V.nonzero()[:, 0]


def _top_p(scores_C: Tensor, settings: GenerationConfig) -> Tensor | None:
    if settings.top_p >= 1:
        return None
    ascending_C, order_C = torch.sort(scores_C)
    kept_C = torch.softmax(ascending_C, dim=0).cumsum(0) > 1 - settings.top_p
    kept_C[-1] = True
    return torch.zeros_like(kept_C).index_copy(0, order_C, kept_C)


def _min_p(scores_C: Tensor, settings: GenerationConfig) -> Tensor | None:
    if settings.min_p <= 0:
        return None
    probability_C = torch.softmax(scores_C, dim=0)
    kept_C = probability_C >= settings.min_p * probability_C.max()
    kept_C[int(probability_C.argmax())] = True
    return kept_C


def _typical(scores_C: Tensor, settings: GenerationConfig) -> Tensor | None:
    """The least surprising difference from the entropy first, up to the mass."""
    if settings.typical_p >= 1:
        return None
    logarithm_C = torch.log_softmax(scores_C, dim=0)
    probability_C = logarithm_C.exp()
    entropy = -(logarithm_C * probability_C).sum()
    distance_C, order_C = torch.sort((-logarithm_C - entropy).abs(), stable=True)
    # The token with which the mass is reached is the last; what ties with it stays, too.
    last = int((probability_C[order_C].cumsum(0) < settings.typical_p).sum())
    edge = distance_C[min(last, len(distance_C) - 1)]
    return (-logarithm_C - entropy).abs() <= edge
