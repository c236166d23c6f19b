"""Permutation language modelling: tokens in a random order, each from those before it there (XLNet).

Yang et al. 2019, sections 2.2 (the objective), 2.3 (partial prediction) and 3.1 (spans; text from both directions).
Shape suffixes: B rows, T tokens of a row, S those of one segment, n segments in a row, P targets of a segment, N
targets of the batch, D width of the hidden state.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from training.models.two_stream import Memory
from training.objectives.cross_entropy import IGNORED, linear_cross_entropy, losses_and_hits
from training.objectives.noise import uniform
from training.objectives.objective import Batch, Measures, Objective, share, total
from training.rows import PADDING, Form, Windows

_LENGTHS, _PLACES, _ORDER, _DIRECTION = range(40, 44)
"""Streams of random numbers."""


class PermutationObjective(Objective):
    """Cross-entropy in nats of the last tokens of a random order, each told from its place and the tokens before it.

    A row is cut into segments, each with its own order and with the one before it as memory; so nothing is kept from
    row to row. The tokens that are not predicted come first in the order and see each other, as in the published code.
    With memory half of the rows are read from right to left (section 3.1), or none would ever look at what comes after
    its segment. End-of-text ids are tokens like all others, and all of a row is one segment for the attention.
    """

    def form(self, length: int) -> Form:
        """Windows; raises ValueError where the length cannot be cut into `memory_segments` equal parts."""
        if length % self._segments:
            raise ValueError(
                f"objective.permutation.memory_segments must divide the sequence length of {length}, got "
                f"{self._segments}"
            )
        return Windows(length)

    def prepare(self, rows: Batch, training: bool = True) -> Batch:
        """Choose and order the targets of windows (B, T + 1); the last token belongs to the next window.

        `inputs` (B, T) int64, turned round in the rows of `backward` (B,) bool; `order` (B, n, S) float32, -1 for what
        is not predicted; `positions` and `targets` (B, n, P) int64, in the segment and from the vocabulary or IGNORED;
        `padding` (B, T) bool; `share` (B,) float32.
        """
        tokens_BT, visits = rows["tokens"][:, :-1], rows["visits"][:, None]
        places_BT = rows["places"][:, None] + torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
        backward_B = self._noise(rows["places"], rows["visits"], _DIRECTION) < (0.5 if self._segments > 1 else 0.0)
        tokens_BT, places_BT = (torch.where(backward_B[:, None], x.flip(1), x) for x in (tokens_BT, places_BT))
        tokens_BnS, places_BnS = (x.unflatten(1, (self._segments, -1)) for x in (tokens_BT, places_BT))
        size = _targets(tokens_BnS.shape[2], self.config.permutation.predicted)
        lengths_BnP, starts_BnP = (
            self._noise(places_BnS[..., :size], visits[..., None], stream) for stream in (_LENGTHS, _PLACES)
        )
        positions_BnP = spans(lengths_BnP, starts_BnP, tokens_BnS.shape[2], self.config.permutation.longest)
        chosen_BnS = torch.zeros_like(tokens_BnS, dtype=torch.bool).scatter(2, positions_BnP, True)
        # Two targets with the same number, which is rare, are told as if the other one were not there.
        order_BnS = torch.where(chosen_BnS, self._noise(places_BnS, visits[..., None], _ORDER), -1.0)
        targets_BnP = tokens_BnS.gather(2, positions_BnP)
        targets_BnP = targets_BnP.masked_fill(targets_BnP == PADDING, IGNORED)
        padding_BT = tokens_BT == PADDING
        return {
            "inputs": tokens_BT.masked_fill(padding_BT, self.setting.end_of_text),
            "backward": backward_B,
            "order": order_BnS,
            "positions": positions_BnP,
            "targets": targets_BnP,
            "padding": padding_BT,
            "share": share(targets_BnP != IGNORED),
        }

    def loss(self, model: Any, batch: Batch) -> Tensor:
        """Mean over the targets of all segments, with label smoothing and z-loss."""
        targets_N = batch["targets"].flatten()
        mean = linear_cross_entropy(
            model.readout(self._hidden(model, batch)),
            model.head.weight,
            targets_N,
            bias_V=model.head.bias,
            label_smoothing=self.config.label_smoothing,
            z_loss=self.config.z_loss,
            chunks=self.setting.in_chunks,
        )
        return mean * (targets_N != IGNORED).sum() / total(batch["share"])

    @torch.no_grad()
    def evaluate(self, model: Any, batch: Batch) -> Measures:
        """`loss`, the plain cross-entropy, and `permutation_accuracy`: share of targets that are the likeliest."""
        targets_BnP = batch["targets"]
        losses_N, hits_N = losses_and_hits(
            model.readout(self._hidden(model, batch)), model.head.weight, targets_BnP.flatten(), model.head.bias
        )
        loss_B, hits_B = (x_N.view(len(targets_BnP), -1).sum(1, dtype=torch.float64) for x_N in (losses_N, hits_N))
        count_B = (targets_BnP != IGNORED).sum((1, 2))
        return {"loss": (loss_B, count_B), "permutation_accuracy": (hits_B, count_B)}

    def flops_per_token(self, model: Any, length: int) -> int:
        """Those of both streams: P targets in a segment; all segments but the first have a memory of their length."""
        size = length // self._segments
        predicted = _targets(size, self.config.permutation.predicted) / size
        flops: int = model.flops_per_token(size, predicted=predicted, memory=1 - 1 / self._segments)
        return flops

    @property
    def _segments(self) -> int:
        return self.config.permutation.memory_segments

    def _noise(self, places: Tensor, visits: Tensor, stream: int) -> Tensor:
        return uniform(places, visits, self.setting.seed, stream)

    def _hidden(self, model: Any, batch: Batch) -> Tensor:
        """The query stream (N, D) of all targets, in the order of `targets`."""
        segments = (
            batch["inputs"].chunk(self._segments, 1),
            batch["order"].unbind(1),
            batch["positions"].unbind(1),
            batch["padding"].chunk(self._segments, 1),
        )
        memory: Memory | None = None
        hidden = []
        for inputs_BS, order_BS, positions_BP, padding_BS in zip(*segments, strict=True):
            hidden_BPD, memory = model.streams(
                inputs_BS,
                order_BS,
                positions_BP,
                padding_BT=padding_BS,
                backward_B=batch["backward"] if self._segments > 1 else None,
                memory=memory,
            )
            hidden.append(hidden_BPD)
        return torch.stack(hidden, 1).flatten(0, 2)


def spans(lengths_P: Tensor, starts_P: Tensor, size: int, longest: int) -> Tensor:
    """Places (..., P) int64, ascending, of P tokens to predict among `size`, in spans (section 3.1).

    A span has L tokens in a row, L from 1 to `longest` with a probability in proportion to 1 / L (the published code),
    and lies anywhere in a stretch of its own of K L tokens, K = size / P; the stretches fill the segment. The last span
    is cut so that there are P. `lengths_P` and `starts_P` are uniform random numbers in [0, 1).
    """
    count = lengths_P.shape[-1]
    drawn_P = torch.ones_like(lengths_P, dtype=torch.int64)
    for bound in _bounds(longest):
        drawn_P += lengths_P >= bound
    ends_P = drawn_P.cumsum(-1).clamp(max=count)
    begins_P = torch.cat([torch.zeros_like(ends_P[..., :1]), ends_P[..., :-1]], -1)
    stretch_P, next_P = begins_P * size // count, ends_P * size // count
    # At most size / P times the span, rounded up, and never less than the span.
    room_P = next_P - stretch_P - (ends_P - begins_P)
    first_P = stretch_P + torch.minimum((starts_P * (room_P + 1)).long(), room_P)
    target_P = torch.arange(count, device=ends_P.device).expand_as(ends_P).contiguous()
    span_P = torch.searchsorted(ends_P, target_P, right=True)
    return first_P.gather(-1, span_P) + target_P - begins_P.gather(-1, span_P)


def _bounds(longest: int) -> list[float]:
    """Where [0, 1) is cut so that the L-th part is in proportion to 1 / L."""
    shares = [1 / length for length in range(1, longest + 1)]
    return [sum(shares[:length]) / sum(shares) for length in range(1, longest)]


def _targets(size: int, predicted: float) -> int:
    """Targets in a segment of `size` tokens."""
    return max(1, round(size * predicted))
