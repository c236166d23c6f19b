"""Log-probabilities of the tokens of an answer, from one pass over prompt and answer.

Shape suffixes: B rows (one), T tokens, D width, V vocabulary, K the likeliest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from training.generation import Generator

_ROWS = 256
"""Tokens whose logits are held at a time."""


@dataclass(frozen=True)
class Scored:
    """A token with what the model thought of it, before temperature and filters."""

    token: int
    text: str
    """The token alone; U+FFFD where it is a part of a character."""
    offset: int
    """Where its text begins, in characters of the prompt for one of the prompt's, else of the answer."""
    logprob: float
    top: list[tuple[str, float]]
    """The likeliest tokens at its place with their log-probabilities, best first."""
    written: bool
    """Whether it is the answer's, not the prompt's."""


@torch.inference_mode()
def score_tokens(
    generator: Generator, prompt: Sequence[int], written: Sequence[int], top: int, with_prompt: bool = False
) -> list[Scored]:
    """Score the written tokens, and those of the prompt where that is asked for, with the `top` likeliest at each.

    Prompt and answer together must fit the context.
    """
    ids = [generator.begin_of_text, *prompt, *written]
    first = 1 if with_prompt else 1 + len(prompt)
    if first >= len(ids):
        return []
    model: Any = generator.model
    assert len(ids) - 1 <= model.config.context_length, "checked when the request came"
    device = next(model.parameters()).device
    hidden_TD = _hidden(generator, torch.tensor([ids[:-1]], device=device), 1 + len(prompt))[0, first - 1 :]
    offsets = [*(_offsets(generator, prompt) if with_prompt else []), *_offsets(generator, written)]
    scored: list[Scored] = []
    for start in range(0, len(hidden_TD), _ROWS):
        logits_TV = model.head(model.readout(hidden_TD[start : start + _ROWS])).float()
        logprobs_TV = logits_TV.log_softmax(-1)
        targets = ids[first + start : first + start + _ROWS]
        own_T = logprobs_TV.gather(1, torch.tensor(targets, device=device)[:, None])[:, 0].tolist()
        best_TK, which_TK = logprobs_TV.topk(min(top, logprobs_TV.shape[1]), dim=1)
        for row, (token, own) in enumerate(zip(targets, own_T, strict=True)):
            best = zip(which_TK[row].tolist(), best_TK[row].tolist(), strict=True)
            place = start + row
            scored.append(
                Scored(
                    token,
                    _text(generator, token),
                    offsets[place],
                    own,
                    [(_text(generator, likely), value) for likely, value in best],
                    first + place > len(prompt),
                )
            )
    return scored


def _hidden(generator: Generator, ids_BT: Tensor, known: int) -> Tensor:
    """What the trunk makes of ids, seen from left to right, or with the prompt whole as a prefix model sees it."""
    how: dict[str, Any] = {} if generator.model.config.attention == "causal" else {"causal": True}
    if generator.prefix:
        how["prefix_BT"] = (torch.arange(ids_BT.shape[1], device=ids_BT.device) < known)[None]
    hidden_BTD: Tensor = generator.model.hidden(ids_BT, **how)
    return hidden_BTD


def _text(generator: Generator, token: int) -> str:
    text: str = generator.tokenizer.decode([token], skip_special_tokens=False)
    return text


def _offsets(generator: Generator, ids: Sequence[int]) -> list[int]:
    """Where the text of each token begins; one that ends no character begins with the character that it is part of."""
    from tokenizers.decoders import DecodeStream

    stream = DecodeStream(skip_special_tokens=False)
    offsets, length = [], 0
    for token in ids:
        offsets.append(length)
        length += len(stream.step(generator.tokenizer, token) or "")
    return offsets
