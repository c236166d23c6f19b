"""Speculative decoding: a draft model proposes tokens, the target reads them at once (Leviathan et al. 2023).

What is written has the target's distribution, after all penalties and limits; greedily, its very tokens.

Shape suffix: V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from training.config.generation import GenerationConfig
from training.generation.drawing import adjusted, check_numbers, dense, draw
from training.generation.sequences import Sequences


def speculate(
    target: Sequences, draft: Sequences, settings: GenerationConfig, random: torch.Generator, context_length: int
) -> Iterator[int]:
    """Yield `max_new_tokens` tokens that follow the one row of both; what ends the text is left to the caller.

    `context_length` is that of the model with the shorter one: where it is full, the target goes on alone.
    """
    written = 0
    while written < settings.max_new_tokens:
        room = min(settings.max_new_tokens - written, context_length - len(target.ids[0])) - 1
        proposals, chances = _propose(draft, min(settings.draft_tokens, room), settings, random)
        tokens = _verify(target, proposals, chances, settings, random)
        kept = len(target.ids[0])
        if proposals:
            # The last token of the target is its own, in place of a proposal or behind all of them.
            draft.cut(0, kept - 1)
        draft.append([tokens[-1]])
        written += len(tokens)
        yield from tokens


def _propose(
    draft: Sequences, count: int, settings: GenerationConfig, random: torch.Generator
) -> tuple[list[int], list[Tensor]]:
    """Tokens that the draft has drawn and added, and what it drew each from: (V,) float64."""
    proposals: list[int] = []
    chances: list[Tensor] = []
    for _ in range(count):
        probability_V = _chances(draft.logits()[:, -1], draft.ids[0], settings)
        proposals.append(draw(probability_V, random))
        chances.append(probability_V)
        draft.append(proposals[-1:])
    return proposals, chances


def _verify(
    target: Sequences,
    proposals: list[int],
    chances: list[Tensor],
    settings: GenerationConfig,
    random: torch.Generator,
) -> list[int]:
    """The proposals that are accepted and one token more, which are added to the target (algorithm 1)."""
    before = target.ids[0][:]
    for token in proposals:
        target.append([token])
    logits_LV = target.logits(len(proposals) + 1)[0]
    accepted: list[int] = []
    for place, (token, draft_V) in enumerate(zip(proposals, chances, strict=True)):
        target_V = _chances(logits_LV[place : place + 1], before + accepted, settings)
        if float(torch.rand((), generator=random, dtype=torch.float64) * draft_V[token]) >= float(target_V[token]):
            left_V = (target_V - draft_V).clamp(min=0)
            # Nothing is left where rounding alone refused the token.
            own = draw(left_V if bool(left_V.any()) else target_V, random)
            break
        accepted.append(token)
    else:
        own = draw(_chances(logits_LV[-1:], before + accepted, settings), random)
    target.cut(0, len(before) + len(accepted))
    target.append([own])
    return [*accepted, own]


def _chances(logits_1V: Tensor, ids: list[int], settings: GenerationConfig) -> Tensor:
    check_numbers(logits_1V)
    return dense(adjusted(logits_1V, [ids], settings)[0].cpu(), settings)
