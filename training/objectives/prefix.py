"""Prefix language modelling: the rest of a text from a beginning that sees itself whole (UniLM, Dong et al. 2019).

Shape suffixes: B rows, T tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from training.models.positions import document_starts
from training.objectives.causal import CausalObjective
from training.objectives.cross_entropy import IGNORED
from training.objectives.noise import uniform
from training.objectives.objective import Batch, share, total

_CUT = 411


class PrefixObjective(CausalObjective):
    """Next-token cross-entropy of what follows a prefix (the sequence-to-sequence mask of UniLM, figure 1).

    The cut is drawn uniformly (as in Raffel et al. 2020, section 3.2.3): in each document of a window with a document
    mask, else in the window.
    """

    likelihood = False

    def prepare(self, rows: Batch, training: bool = True) -> Batch:
        """What causal language modelling has, `prefix` (B, T) bool, and `share` (B,), the targets of a row on average.

        The tokens of a prefix, at least one and at most all, see each other. The last of them predicts the first token
        behind the prefix; what the others would predict does not count.
        """
        batch = self._batch(rows["tokens"])
        targets_BT = batch["targets"]
        place_BT, first_BT, length_BT = _documents(batch, targets_BT != IGNORED)
        drawn_BT = uniform(rows["places"][:, None] + first_BT, rows["visits"][:, None], self.setting.seed, _CUT)
        cut_BT = 1 + (drawn_BT * length_BT).long()
        batch["prefix"] = (place_BT < cut_BT) & (place_BT < length_BT)
        batch["targets"] = targets_BT.masked_fill(place_BT < cut_BT - 1, IGNORED)
        batch["share"] = share(batch["targets"] != IGNORED)
        return batch

    def loss(self, model: Any, batch: Batch) -> Tensor:
        """Mean loss of the batch; the mean over micro-batches is that over the targets of all of them."""
        count = (batch["targets"] != IGNORED).sum()
        return super().loss(model, batch) * (count / total(batch["share"]))


def _documents(batch: Batch, counted_BT: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each token its place in its document, where that begins in the row, and how many of its tokens count."""
    place_T = torch.arange(counted_BT.shape[1], device=counted_BT.device)
    if "documents" not in batch:
        return place_T.expand_as(counted_BT), torch.zeros_like(batch["inputs"]), counted_BT.sum(1, keepdim=True)
    starts_BT = document_starts(batch["documents"])
    first_BT = torch.where(starts_BT, place_T, 0).cummax(dim=1).values
    before_BT = counted_BT.cumsum(1) - counted_BT.long()
    last_BT = torch.ones_like(starts_BT)
    last_BT[:, :-1] = starts_BT[:, 1:]
    # The count behind a document's last token, brought back to all of it, less the count before its first.
    tokens = counted_BT.shape[1]
    end_BT = torch.where(last_BT, place_T, tokens).flip(1).cummin(dim=1).values.flip(1)
    length_BT = counted_BT.cumsum(1).gather(1, end_BT) - before_BT.gather(1, first_BT)
    return place_T - first_BT, first_BT, length_BT
