"""Vectors of texts: pooled from the last layer of any model, or averaged from its token embeddings.

Shape suffixes: B texts of a batch, T tokens, N texts, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.evaluation.batching import POSITIONS, Padded, groups, padded
from training.evaluation.judged import Judged

Pooling = Literal["first", "mean", "last"]


def poolings(judged: Judged) -> tuple[Pooling, ...]:
    """The ways in which a model's tokens make a vector: their mean; the first one, which sees all of the text, or the
    last one, where only that does."""
    if judged.name in ("causal", "prefix"):
        return ("mean", "last")
    return ("mean", "first") if judged.special.first in judged.frame.before else ("mean",)


def embed(judged: Judged, texts: Sequence[str], pooling: Pooling, model: Any = None) -> NDArray[np.float32]:
    """Vectors (N, D) float32 of texts, which are cut at the context length; `model` instead of the judged one.

    The mean is that of the text's tokens, without the special ones around it, but of a text without any.
    """
    model = judged.model if model is None else model
    room = judged.context_length - judged.frame.tokens
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
        vectors_BD = _pool(hidden_BTD.float(), lengths_B, pooling, len(judged.frame.before), len(judged.frame.after))
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
