"""Vectors of texts: pooled from the last layer of any model, or averaged from its token embeddings.

Shape suffixes: B texts of a batch, T tokens, N texts, D width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from training.evaluation.batching import POSITIONS, Padded, groups, padded
from training.evaluation.judged import Judged

Pooling = Literal["first", "mean", "last", "sentence"]


def poolings(judged: Judged) -> tuple[Pooling, ...]:
    """The ways in which a model's tokens make a vector: their mean; the first one, which sees all of the text, or the
    last one, where only that does. Of a sentence encoder, its own (`pooling` of config.json)."""
    if judged.description.get("pooling"):
        return ("sentence",)
    if judged.name in ("causal", "prefix"):
        return ("mean", "last")
    return ("mean", "first") if judged.special.first in judged.frame.before else ("mean",)


def embed(judged: Judged, texts: Sequence[str], pooling: Pooling, model: Any = None) -> NDArray[np.float32]:
    """Vectors (N, D) float32 of texts, which are cut at the context length; `model` instead of the judged one.

    The mean is that of the text's tokens, without the special ones around it, but of a text without any. `sentence` is
    the way of a sentence encoder, of length 1 where it says so; it cuts texts at its own `max_length`, too. Raises
    ValueError where the checkpoint says nothing of it.
    """
    model = judged.model if model is None else model
    own = SentencePooling.of(judged) if pooling == "sentence" else None
    longest = judged.context_length if own is None else min(judged.context_length, own.max_length)
    room = longest - judged.frame.tokens
    sequences = [judged.frame.around(ids[:room]) for ids in judged.encode(texts)]
    # A text without tokens still needs one that the model can read.
    sequences = [ids if len(ids) else np.array([judged.frame.padding]) for ids in sequences]
    results: list[NDArray[np.float32] | None] = [None] * len(texts)
    limit = POSITIONS.get(judged.device.type, 2048)
    for group in groups([len(ids) for ids in sequences], limit):
        batch = padded([sequences[item] for item in group], judged.frame.padding, judged.device)
        with torch.inference_mode(), judged.compute.autocast():
            hidden_BTD = hidden_states(model, batch)
        lengths_B = torch.tensor([len(sequences[item]) for item in group], device=judged.device)
        if own is not None:
            vectors_BD = own.pool(hidden_BTD.float(), lengths_B)
        else:
            before, after = len(judged.frame.before), len(judged.frame.after)
            vectors_BD = _pool(hidden_BTD.float(), lengths_B, pooling, before, after)
        for item, vector in zip(group, vectors_BD.cpu().numpy(), strict=True):
            results[item] = vector
    return np.stack([vector for vector in results if vector is not None])


def hidden_states(model: Any, batch: Padded) -> Tensor:
    """The last layer (B, T, D) of whatever reads text: the trunk, the discriminator, or the encoder."""
    if hasattr(model, "encoded"):
        encoded_BTD: Tensor = model.encoded(batch.ids_BT, batch.documents_BT)
        return encoded_BTD
    hidden_BTD: Tensor = getattr(model, "discriminator", model).hidden(batch.ids_BT, batch.documents_BT)
    return hidden_BTD


def bag_of_words(judged: Judged, texts: Sequence[str]) -> NDArray[np.float32]:
    """The mean of the embeddings (N, E) of each text's tokens, whatever their order: what needs no layer at all."""
    table_VE = getattr(judged.model, "discriminator", judged.model).embedding.weight.detach().float().cpu().numpy()
    means = [table_VE[ids].mean(0) if len(ids) else np.zeros(table_VE.shape[1]) for ids in judged.encode(texts)]
    return np.stack(means).astype(np.float32)


class SentencePooling(NamedTuple):
    """How a sentence encoder makes a vector of all tokens of a sequence, the special ones, too."""

    mode: str
    """first, mean, max, mean_root (the sum over the root of the length), weighted_mean (the n-th token n times) or
    last: the kinds of sentence-transformers (Reimers & Gurevych 2019, section 3)."""
    normalize: bool
    max_length: int
    """Most tokens of a sequence."""

    @classmethod
    def of(cls, judged: Judged) -> SentencePooling:
        """That of a checkpoint; raises ValueError where its config.json says nothing of it, or what is unknown."""
        told = judged.description.get("pooling")
        if not told:
            raise ValueError(f"{judged.checkpoint}: its config.json has no `pooling`; it is no sentence encoder")
        if told.get("mode") not in _POOLS:
            raise ValueError(f"{judged.checkpoint}: pooling.mode {told.get('mode')!r}; there are {', '.join(_POOLS)}")
        return cls(told["mode"], bool(told.get("normalize")), int(told.get("max_length") or judged.context_length))

    def pool(self, hidden_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        """Vectors (B, D) of the first `lengths_B` tokens of each row."""
        places_T = torch.arange(hidden_BTD.shape[1], device=hidden_BTD.device)
        vectors_BD = _POOLS[self.mode](hidden_BTD, (places_T < lengths_B[:, None])[..., None])
        return F.normalize(vectors_BD, dim=-1) if self.normalize else vectors_BD


def _mean(hidden_BTD: Tensor, weights_BT1: Tensor, power: float = 1.0) -> Tensor:
    return (hidden_BTD * weights_BT1).sum(1) / weights_BT1.sum(1).clamp(min=1e-9) ** power


def _weighted(hidden_BTD: Tensor, real_BT1: Tensor) -> Tensor:
    return _mean(hidden_BTD, real_BT1 * torch.arange(1, hidden_BTD.shape[1] + 1, device=hidden_BTD.device)[:, None])


def _last(hidden_BTD: Tensor, real_BT1: Tensor) -> Tensor:
    rows_B = torch.arange(len(hidden_BTD), device=hidden_BTD.device)
    return hidden_BTD[rows_B, real_BT1[..., 0].sum(1) - 1]


_POOLS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "first": lambda hidden_BTD, real_BT1: hidden_BTD[:, 0],
    "mean": _mean,
    "max": lambda hidden_BTD, real_BT1: hidden_BTD.masked_fill(~real_BT1, float("-inf")).amax(1),
    "mean_root": functools.partial(_mean, power=0.5),
    "weighted_mean": _weighted,
    "last": _last,
}


def _pool(hidden_BTD: Tensor, lengths_B: Tensor, pooling: Pooling, before: int, after: int) -> Tensor:
    rows_B = torch.arange(len(hidden_BTD), device=hidden_BTD.device)
    if pooling == "first":
        return hidden_BTD[:, 0]
    if pooling == "last":
        return hidden_BTD[rows_B, lengths_B - 1]
    place_T = torch.arange(hidden_BTD.shape[1], device=hidden_BTD.device)
    bare_B = lengths_B <= before + after
    low_B, high_B = torch.where(bare_B, 0, before), torch.where(bare_B, lengths_B, lengths_B - after)
    mine_BT = (place_T >= low_B[:, None]) & (place_T < high_B[:, None])
    return (hidden_BTD * mine_BT[..., None]).sum(1) / mine_BT.sum(1, keepdim=True)
