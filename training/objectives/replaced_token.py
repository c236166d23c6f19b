"""Replaced token detection: which tokens of a text a generator has replaced (ELECTRA, Clark et al. 2020, section 2).

Shape suffixes: B rows, T tokens, P slots of masked tokens, N positions, D width of the hidden state, E what the head
reads, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from training.config import ObjectiveConfig
from training.objectives.cross_entropy import IGNORED, linear_cross_entropy, token_losses
from training.objectives.masked import gathered
from training.objectives.masking import mask, slots
from training.objectives.noise import uniform
from training.objectives.objective import Batch, Measures, Objective, Setting, share, total
from training.rows import Form, Packed

_SAMPLE = 200  # stream of noise
_CHUNK_POSITIONS = 512
"""Positions whose probabilities over the vocabulary exist at a time."""


class ReplacedTokenObjective(Objective):
    """The generator's masked-word loss plus `weight` times the discriminator's binary cross-entropy (equation 1).

    The generator predicts masked tokens (`masking.py`); a sample from its softmax takes the place of each, and the
    discriminator tells of every token whether it is the original one. A sample that happens to be the original token is
    labelled original (section 2). Ids carry no gradient, so that the discriminator teaches the generator nothing but
    the embeddings that they share. The discriminator's loss is taken over all tokens that are not padding, special ones
    too, as in the published code (they are never replaced).
    """

    def __init__(self, config: ObjectiveConfig, setting: Setting) -> None:
        super().__init__(config, setting)
        for name in ("mask", "first", "separator", "padding"):
            setting.special(name)

    def form(self, length: int) -> Form:
        """Running text of one document a sequence."""
        setting = self.setting
        return Packed(
            length,
            "text",
            first=setting.special("first"),
            separator=setting.special("separator"),
            padding=setting.special("padding"),
            end_of_text=setting.end_of_text,
            seed=setting.seed,
            copies=self.config.masking.copies,
        )

    def prepare(self, rows: Batch, training: bool = True) -> Batch:
        """`tokens`, `inputs` (masked) and `documents` (B, T), `positions` and `targets` (B, P) int64.

        Also `noise` (B, P) float32 in [0, 1), which draws the samples, and `share` and `replaced_share` (B,) float32:
        the masked tokens, and all tokens, of the whole batch by row.
        """
        masked = mask(rows, self.config.masking, self.setting)
        places_BP = rows["places"].gather(1, masked.positions_BP)
        return {
            "tokens": rows["tokens"],
            "inputs": masked.inputs_BT,
            "documents": rows["documents"],
            "positions": masked.positions_BP,
            "targets": masked.targets_BP,
            "noise": uniform(places_BP, rows["visits"].unsqueeze(1), self.setting.seed, _SAMPLE),
            "share": share(masked.targets_BP != IGNORED),
            "replaced_share": share(rows["documents"] > 0),
        }

    def loss(self, model: Any, batch: Batch) -> Tensor:
        """The weighted sum; label smoothing and z-loss are the generator's."""
        generator, targets_N = model.generator, batch["targets"].flatten()
        read_NE = self._read(generator, batch)
        mean = linear_cross_entropy(
            read_NE,
            generator.head.weight,
            targets_N,
            bias_V=generator.head.bias,
            label_smoothing=self.config.label_smoothing,
            z_loss=self.config.z_loss,
            chunks=self.setting.in_chunks,
        )
        generator_loss = mean * (targets_N != IGNORED).sum() / total(batch["share"])
        losses_BT = self._detected(model, batch, self._corrupted(generator, read_NE, batch))[0]
        return generator_loss + self.config.replaced_token.weight * losses_BT.sum() / total(batch["replaced_share"])

    @torch.no_grad()
    def evaluate(self, model: Any, batch: Batch) -> Measures:
        """The losses and accuracies of both, and `replaced_precision` and `replaced_recall` of the discriminator.

        `loss` is the weighted sum that training minimises, a row's masked tokens counting by the number of its tokens.
        The samples are the same in every evaluation of the same weights.
        """
        generator, targets_BP = model.generator, batch["targets"]
        read_NE = self._read(generator, batch)
        losses_N = token_losses(read_NE, generator.head.weight, targets_BP.flatten(), generator.head.bias)
        likeliest_N = torch.cat([logits.argmax(1) for logits in _logits(generator, read_NE)])
        masked_B = (targets_BP != IGNORED).sum(1)
        generator_B = losses_N.view_as(targets_BP).sum(1, dtype=torch.float64)

        ids_BT = self._corrupted(generator, read_NE, batch)
        losses_BT, logits_BT = self._detected(model, batch, ids_BT)
        counted_BT, replaced_BT = batch["documents"] > 0, ids_BT != batch["tokens"]
        found_BT = counted_BT & (logits_BT > 0)
        tokens_B = counted_BT.sum(1)
        replaced_B = losses_BT.sum(1, dtype=torch.float64)
        weighted_B = self.config.replaced_token.weight * replaced_B
        true_B = (found_BT & replaced_BT).sum(1).double()
        return {
            "loss": (tokens_B * generator_B / masked_B.clamp(min=1) + weighted_B, tokens_B),
            "generator_loss": (generator_B, masked_B),
            "generator_accuracy": ((likeliest_N.view_as(targets_BP) == targets_BP).sum(1).double(), masked_B),
            "replaced_loss": (replaced_B, tokens_B),
            "replaced_accuracy": ((counted_BT & (found_BT == replaced_BT)).sum(1).double(), tokens_B),
            "replaced_precision": (true_B, found_BT.sum(1)),
            "replaced_recall": (true_B, replaced_BT.sum(1)),
        }

    def flops_per_token(self, model: Any, length: int) -> int:
        """Of both models; the generator's head reads P of `length` positions. Drawing the samples is not counted."""
        flops: int = model.flops_per_token(length, predicted=slots(self.config.masking, length) / length)
        return flops

    def _read(self, generator: Any, batch: Batch) -> Tensor:
        """What the generator's head reads of the masked positions (N, E)."""
        hidden_BTD = generator.hidden(batch["inputs"], batch["documents"], causal=False)
        read_NE: Tensor = generator.readout(gathered(hidden_BTD, batch["positions"]).flatten(0, 1))
        return read_NE

    def _corrupted(self, generator: Any, read_NE: Tensor, batch: Batch) -> Tensor:
        """The tokens (B, T), a sample of the generator in the place of each masked one."""
        tokens_BT, targets_BP = batch["tokens"], batch["targets"]
        temperature = self.config.replaced_token.temperature
        samples_N = sample(generator, read_NE, batch["noise"].flatten(), temperature)
        # What is drawn for a slot that is not used is written behind the row, and cut off.
        length = tokens_BT.shape[1]
        slots_BP = batch["positions"].where(targets_BP != IGNORED, length)
        return F.pad(tokens_BT, (0, 1)).scatter(1, slots_BP, samples_N.view_as(targets_BP))[:, :length].contiguous()

    def _detected(self, model: Any, batch: Batch, ids_BT: Tensor) -> tuple[Tensor, Tensor]:
        """The discriminator's loss for each token (B, T), 0 for padding, and its logits, at least float32."""
        discriminator = model.discriminator
        hidden_BTD = discriminator.hidden(ids_BT, batch["documents"], causal=False)
        logits_BT = discriminator.replaced_logits(hidden_BTD)
        logits_BT = logits_BT.to(torch.promote_types(logits_BT.dtype, torch.float32))
        labels_BT = (ids_BT != batch["tokens"]).to(logits_BT.dtype)
        losses_BT = F.binary_cross_entropy_with_logits(logits_BT, labels_BT, reduction="none")
        return losses_BT * (batch["documents"] > 0), logits_BT


@torch.no_grad()
def sample(generator: Any, read_NE: Tensor, noise_N: Tensor, temperature: float = 1.0) -> Tensor:
    """Ids (N,) int64 from the softmax of the generator's logits over `temperature`.

    `noise_N` float32 in [0, 1) picks them through the inverse of the cumulative distribution: of uniform numbers, each
    id is drawn with its probability, to the accuracy of float32 sums.
    """
    parts = zip(_logits(generator, read_NE), noise_N.split(_CHUNK_POSITIONS), strict=True)
    return torch.cat([_inverse(torch.softmax(logits / temperature, dim=1), noise) for logits, noise in parts])


def _inverse(probabilities_NV: Tensor, noise_N: Tensor) -> Tensor:
    """The first id whose cumulative probability reaches 1 - noise, which lies in (0, 1]: never one of probability 0."""
    cumulative_NV = probabilities_NV.cumsum(1)
    wanted_N1 = (1 - noise_N).unsqueeze(1) * cumulative_NV[:, -1:]
    return torch.searchsorted(cumulative_NV, wanted_N1).squeeze(1).clamp(max=probabilities_NV.shape[1] - 1)


def _logits(generator: Any, read_NE: Tensor) -> Iterator[Tensor]:
    """The generator's logits, float32 of a chunk of positions (n, V) at a time."""
    for read in read_NE.split(_CHUNK_POSITIONS):
        yield F.linear(read, generator.head.weight, generator.head.bias).float()
