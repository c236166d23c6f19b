"""Pseudo-log-likelihoods: each token from all others, masked in turn (Salazar et al. 2020, section 2, equation 1).

Every architecture is asked in the way that it was trained: a masked model, or the generator of a replaced-token model,
by a mask in the token's place; a permutation model by an order in which the token comes last. Shape suffixes: B masked
copies, T tokens, D width of the hidden state, E what the head reads, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from training.evaluation.batching import POSITIONS, groups, padded
from training.evaluation.judged import Judged
from training.objectives.cross_entropy import token_losses

Floats = NDArray[np.float32]
Reader = Callable[[Tensor, Tensor | None, Tensor], Tensor]
"""Ids (B, T), documents (B, T) or None, the place (B,) of one token of each -> what the head reads there, (B, E)."""


def pseudo_log_probabilities(
    judged: Judged,
    sequences: Sequence[NDArray[np.integer]],
    starts: Sequence[int] | None = None,
    positions: int | None = None,
) -> list[Floats]:
    """Natural log of the probability of each token of each text (1-D ids) given all of its others.

    A text that exceeds the context is scored in pieces of that length, each alone. `starts`: the first token of each
    text that is scored, 0 stands for those before it. `positions`: the most of one forward pass. Raises ValueError
    where the model predicts no token from both sides.
    """
    read, head = reader(judged), vocabulary_head(judged)
    room = judged.context_length - judged.frame.tokens
    if room < 1:
        raise ValueError(f"a context of {judged.context_length} tokens has no room for text")
    results = [np.zeros(len(ids), dtype=np.float32) for ids in sequences]
    pieces = [
        (index, begin, judged.frame.around(ids[begin : begin + room]))
        for index, ids in enumerate(sequences)
        for begin in range(0, len(ids), room)
    ]
    before = len(judged.frame.before)
    first = [0] * len(sequences) if starts is None else list(starts)
    copies = [
        (number, place)
        for number, (index, begin, framed) in enumerate(pieces)
        for place in range(max(0, first[index] - begin), len(framed) - judged.frame.tokens)
    ]
    lengths = [len(pieces[number][2]) for number, _ in copies]
    limit = positions or POSITIONS.get(judged.device.type, 2048)
    for group in groups(lengths, limit):
        chosen = [copies[item] for item in group]
        batch = padded([pieces[number][2] for number, _ in chosen], judged.frame.padding, judged.device)
        places_B = torch.tensor([before + place for _, place in chosen], device=judged.device)
        targets_B = batch.ids_BT.gather(1, places_B[:, None]).squeeze(1)
        with torch.inference_mode(), judged.compute.autocast():
            read_BE = read(batch.ids_BT, batch.documents_BT, places_B)
            losses_B = token_losses(read_BE, head.weight, targets_B, head.bias)
        for (number, place), loss in zip(chosen, losses_B.tolist(), strict=True):
            index, begin, _ = pieces[number]
            results[index][begin + place] = -loss
    return results


def probabilities(judged: Judged, ids: NDArray[np.integer], place: int) -> Tensor:
    """The distribution (V,) float32 over the token at a place of a text of ids that fits into the context."""
    batch = padded([judged.frame.around(ids)], judged.frame.padding, judged.device)
    places_B = torch.tensor([len(judged.frame.before) + place], device=judged.device)
    head = vocabulary_head(judged)
    with torch.inference_mode(), judged.compute.autocast():
        read_BE = reader(judged)(batch.ids_BT, None, places_B)
    with torch.inference_mode():
        return F.linear(read_BE.float(), head.weight, head.bias).softmax(-1)[0].cpu()


def predicts_both_sides(judged: Judged) -> bool:
    """Whether the model predicts a token from those before and behind it."""
    return judged.name in _READERS


def reader(judged: Judged) -> Reader:
    """How the model is asked for one token; raises ValueError where it predicts none from both sides."""
    if judged.name not in _READERS:
        raise ValueError(f"a model trained on the objective {judged.name} predicts no token from both sides of it")
    return _READERS[judged.name](judged)


def vocabulary_head(judged: Judged) -> torch.nn.Linear:
    """The vocabulary matrix and bias: that of the generator where the model has one."""
    head: torch.nn.Linear = getattr(judged.model, "generator", judged.model).head
    return head


def _masked(judged: Judged) -> Reader:
    mask = judged.special.mask
    if mask is None:
        raise ValueError("special_tokens.mask: pseudo-likelihoods need it, but the checkpoint names none")

    def read(ids_BT: Tensor, documents_BT: Tensor | None, places_B: Tensor) -> Tensor:
        model = getattr(judged.model, "generator", judged.model)
        ids_BT = ids_BT.scatter(1, places_B[:, None], mask)
        hidden_BTD = model.hidden(ids_BT, documents_BT, causal=False)
        read_BE: Tensor = model.readout(hidden_BTD[torch.arange(len(places_B), device=places_B.device), places_B])
        return read_BE

    return read


def _last_of_order(judged: Judged) -> Reader:
    def read(ids_BT: Tensor, documents_BT: Tensor | None, places_B: Tensor) -> Tensor:
        order_BT = torch.zeros_like(ids_BT).scatter(1, places_B[:, None], 1)
        padding_BT = None if documents_BT is None else documents_BT == 0
        queries_BPD, _ = judged.model.streams(ids_BT, order_BT, places_B[:, None], padding_BT=padding_BT)
        read_BE: Tensor = judged.model.readout(queries_BPD[:, 0])
        return read_BE

    return read


_READERS: dict[str, Callable[[Judged], Reader]] = {
    "masked": _masked,
    "replaced_token": _masked,
    "permutation": _last_of_order,
}
