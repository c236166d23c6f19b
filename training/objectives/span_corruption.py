"""Span corruption: spans of the input that sentinels stand for, to be told by the decoder (T5, Raffel et al. 2020).

Shape suffixes: B rows, L tokens of the text, S of the input, T of the target, N positions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from training.config import ObjectiveConfig
from training.objectives.cross_entropy import IGNORED, linear_cross_entropy, losses_and_hits
from training.objectives.noise import uniform
from training.objectives.objective import Batch, Measures, Objective, Setting
from training.rows import PADDING, Form, Windows

_NOISE_CUTS, _KEPT_CUTS = 421, 422


class Lengths(NamedTuple):
    """Tokens of a text before and after corruption."""

    text: int
    noise: int
    """Of the text, taken out."""
    spans: int
    inputs: int
    targets: int

    @classmethod
    def of(cls, text: int, rate: float, mean_length: float) -> Lengths:
        """Those of a text of at least 2 tokens; halves are rounded to even, as everywhere in the published code."""
        noise = min(max(round(text * rate), 1), text - 1)
        # No more spans than there are tokens to part them, which the published code takes for granted.
        spans = min(max(round(noise / mean_length), 1), text - noise)
        return cls(text, noise, spans, text - noise + spans + 1, noise + spans + 1)

    @classmethod
    def fitting(cls, inputs: int, rate: float, mean_length: float) -> Lengths:
        """Those of the longest text whose input has at most `inputs` tokens (random_spans_helper of the T5 code,
        but for its special case of half of the tokens).

        Raises ValueError where there is none.
        """
        text = 2
        while cls.of(text + 1, rate, mean_length).inputs <= inputs:
            text += 1
        lengths = cls.of(text, rate, mean_length)
        if lengths.inputs > inputs:
            raise ValueError(
                f"a sequence of {inputs} tokens is too short for span corruption: it takes {lengths.inputs}"
            )
        return lengths


class SpanCorruptionObjective(Objective):
    """Cross-entropy of the spans that are missing from the input (section 3.1.4 and figure 2).

    A text of fixed length is parted at random into as many spans that stay as spans that go, in turn, the first one
    staying; each of the latter becomes a sentinel in the input, and is told behind the same sentinel in the target. The
    sentinels are the model's last ids, the first one the largest. The end-of-text id ends both sides, like T5's </s>.
    The decoder begins with the padding id, or the end-of-text id where the tokenizer has none.
    """

    def __init__(self, config: ObjectiveConfig, setting: Setting) -> None:
        super().__init__(config, setting)
        padding = setting.special_tokens.padding
        self.padding = setting.end_of_text if padding is None else padding
        self._first_sentinel = setting.vocabulary_size + config.span_corruption.sentinels - 1

    def lengths(self, length: int) -> Lengths:
        """Of the rows for inputs of at most `length` tokens (T5: 512 and 114 from 568).

        Raises ValueError where they would need more sentinels than there are.
        """
        corruption = self.config.span_corruption
        lengths = Lengths.fitting(length, corruption.rate, corruption.mean_length)
        if lengths.spans > corruption.sentinels:
            raise ValueError(
                f"span_corruption.sentinels: {lengths.spans} spans of a sequence of {length} tokens need as many, got "
                f"{corruption.sentinels}"
            )
        return lengths

    def form(self, length: int) -> Form:
        """Windows of running text, longer than `length` by what corruption takes away."""
        return Windows(self.lengths(length).text)

    def prepare(self, rows: Batch, training: bool = True) -> Batch:
        """`inputs` (B, S), `decoder_inputs` and `targets` (B, T) int64; in evaluation `documents` of both sides, too.

        The text is all of a window but its first token, which the window before has. In evaluation it may be short,
        with spans by its own length; padding is then at the end, document 0.
        """
        text_BL = rows["tokens"][:, 1:]
        noise_BL = self._noise(text_BL != PADDING, rows["places"], rows["visits"])
        whole = self._whole(text_BL.shape[1])
        starts_BL = noise_BL & ~torch.cat([torch.zeros_like(noise_BL[:, :1]), noise_BL[:, :-1]], 1)
        sentinels_BL = self._first_sentinel + 1 - starts_BL.cumsum(1)
        end = self.setting.end_of_text

        kept_BL = (~noise_BL | starts_BL) & (text_BL != PADDING)
        inputs_BS = _compacted(torch.where(starts_BL, sentinels_BL, text_BL), kept_BL, end, whole.inputs)
        pairs_B2L = torch.stack([sentinels_BL, text_BL], 2).flatten(1)
        told_B2L = torch.stack([starts_BL, noise_BL], 2).flatten(1)
        targets_BT = _compacted(pairs_B2L, told_B2L, end, whole.targets)
        targets_BT = targets_BT.masked_fill((text_BL[:, :1] == PADDING), PADDING)  # nothing is told of no text

        decoder_inputs_BT = torch.cat([torch.full_like(targets_BT[:, :1], self.padding), targets_BT[:, :-1]], 1)
        batch = {
            "inputs": inputs_BS.masked_fill(inputs_BS == PADDING, self.padding),
            "decoder_inputs": decoder_inputs_BT.masked_fill(decoder_inputs_BT == PADDING, self.padding),
            "targets": targets_BT.masked_fill(targets_BT == PADDING, IGNORED),
        }
        if not training:  # only held-out text is ever short
            batch["documents"] = (inputs_BS != PADDING).long()
            batch["decoder_documents"] = (targets_BT != PADDING).long()
        return batch

    def loss(self, model: Any, batch: Batch) -> Tensor:
        """Mean loss of the targets, with label smoothing and z-loss where they are set."""
        return linear_cross_entropy(
            self._read(model, batch),
            model.head.weight,
            batch["targets"].flatten(),
            label_smoothing=self.config.label_smoothing,
            z_loss=self.config.z_loss,
            chunks=self.setting.in_chunks,
        )

    @torch.no_grad()
    def evaluate(self, model: Any, batch: Batch) -> Measures:
        """`loss`: the plain cross-entropy, and `target_accuracy`: share of the targets that are the likeliest token."""
        targets_BT = batch["targets"]
        losses_N, right_N = losses_and_hits(self._read(model, batch), model.head.weight, targets_BT.flatten())
        count_B = (targets_BT != IGNORED).sum(1)
        losses_B, right_B = (x_N.view(targets_BT.shape).sum(1, dtype=torch.float64) for x_N in (losses_N, right_N))
        return {"loss": (losses_B, count_B), "target_accuracy": (right_B, count_B)}

    def flops_per_token(self, model: Any, length: int) -> int:
        """FLOPs of a row by token of `length`."""
        lengths = self.lengths(length)
        flops: int = model.flops(lengths.inputs, lengths.targets) // length
        return flops

    def _read(self, model: Any, batch: Batch) -> Tensor:
        """What the head multiplies, (B T, D)."""
        hidden_BTD = model.hidden(
            batch["inputs"], batch["decoder_inputs"], batch.get("documents"), batch.get("decoder_documents")
        )
        read_ND: Tensor = model.readout(hidden_BTD.flatten(0, 1))
        return read_ND

    def _whole(self, text: int) -> Lengths:
        corruption = self.config.span_corruption
        return Lengths.of(text, corruption.rate, corruption.mean_length)

    def _noise(self, text_BL: Tensor, places_B: Tensor, visits_B: Tensor) -> Tensor:
        """Which tokens of texts (B, L) bool are taken out.

        Those to be taken out and those to stay are each cut into as many spans, at places drawn without replacement (as
        random_spans_noise_mask of the T5 code), and the spans are then laid in turn: as one sort.
        """
        tokens = text_BL.shape[1]
        whole = self._whole(tokens)
        noise_B1, spans_B1 = self._counts(text_BL.sum(1, keepdim=True))
        kept_B1 = text_BL.sum(1, keepdim=True) - noise_B1
        turns = []
        for most, count_B1, stream, turn in (
            (tokens - whole.noise, kept_B1, _KEPT_CUTS, 0),
            (whole.noise, noise_B1, _NOISE_CUTS, 1),
        ):
            place_N = torch.arange(most, device=text_BL.device)
            number_BN = self._segments(places_B, visits_B, count_B1, spans_B1, place_N, stream)
            turns.append((2 * number_BN + turn).masked_fill(place_N >= count_B1, 2 * tokens))
        order_BL = torch.cat(turns, 1).sort(dim=1).values
        return (order_BL % 2 == 1) & (order_BL < 2 * tokens)

    def _segments(
        self, places_B: Tensor, visits_B: Tensor, count_B1: Tensor, spans_B1: Tensor, place_N: Tensor, stream: int
    ) -> Tensor:
        """Number of the span (B, N) that each of `count` items belongs to, none of them empty."""
        drawn_BN = uniform(places_B[:, None] + 1 + place_N, visits_B[:, None], self.setting.seed, stream)
        # A cut before an item; there is none before the first, nor behind the last.
        cuttable_BN = (place_N > 0) & (place_N < count_B1)
        order_BN = drawn_BN.masked_fill(~cuttable_BN, 2.0).argsort(dim=1, stable=True)
        rank_BN = order_BN.argsort(dim=1, stable=True)
        return (cuttable_BN & (rank_BN < spans_B1 - 1)).cumsum(1)

    def _counts(self, length_B1: Tensor) -> tuple[Tensor, Tensor]:
        """Noise and spans as `Lengths.of` has them, for lengths in a tensor; no noise where they are below 2."""
        corruption = self.config.span_corruption
        noise = (length_B1.double() * corruption.rate).round().long().clamp(min=1)
        noise = torch.minimum(noise, (length_B1 - 1).clamp(min=0))
        spans = (noise.double() / corruption.mean_length).round().long().clamp(min=1)
        return noise, torch.minimum(spans, length_B1 - noise)


def _compacted(values_BN: Tensor, kept_BN: Tensor, end: int, length: int) -> Tensor:
    """The values (B, length) that are kept, in order, then `end`, then PADDING."""
    order_BN = (~kept_BN).to(torch.uint8).argsort(dim=1, stable=True)[:, :length]
    room = length - order_BN.shape[1]
    front_BN = torch.nn.functional.pad(values_BN.gather(1, order_BN), (0, room))
    count_B1 = kept_BN.sum(1, keepdim=True)
    place_N = torch.arange(length, device=values_BN.device)
    behind_BN = torch.where(place_N == count_B1, end, PADDING)
    return torch.where(place_N < count_B1, front_BN, behind_BN)
