"""Masked language modelling: chosen tokens from all others (BERT, Devlin et al. 2019, section 3.1, task 1).

Shape suffixes: B rows, T tokens, P slots of tokens to predict, S slots of sequences, N positions, D width of the hidden
state, E what the head reads, V vocabulary, C classes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from training.config import ObjectiveConfig
from training.objectives.cross_entropy import IGNORED, linear_cross_entropy, losses_and_hits
from training.objectives.masking import mask, slots
from training.objectives.objective import Batch, Measures, Objective, Setting, share, total
from training.rows import Form, Packed


class MaskedObjective(Objective):
    """Cross-entropy of the chosen tokens in nats, and of the sentence task where there is one, by its weight.

    The sentence task is that of BERT (section 3.1, task 2) or ALBERT (Lan et al. 2020, section 3.1). The head reads the
    chosen positions alone. Which tokens are chosen, and what stands in their place: `masking.py`.
    """

    def __init__(self, config: ObjectiveConfig, setting: Setting) -> None:
        super().__init__(config, setting)
        for name in ("mask", "first", "separator", "padding"):
            setting.special(name)

    def form(self, length: int) -> Form:
        """Running text of one document a sequence (RoBERTa's DOC-SENTENCES), or pairs for the sentence task."""
        config, setting = self.config, self.setting
        return Packed(
            length,
            "pairs" if self._has_pairs else "text",
            first=setting.special("first"),
            separator=setting.special("separator"),
            padding=setting.special("padding"),
            end_of_text=setting.end_of_text,
            seed=setting.seed,
            task=config.sentence_task,
            short_share=config.short_share,
            copies=config.masking.copies,
        )

    def prepare(self, rows: Batch, training: bool = True) -> Batch:
        """`inputs` and `documents` (B, T), `positions` and `targets` (B, P) int64, `share` (B,) float32.

        With a sentence task also `segments` (B, T), `firsts` and `labels` (B, S) int64 and `sentence_share` (B,). A
        share is the number of targets (labels) of the whole batch by row: micro-batches divide by its sum, so that
        their mean is that of the batch.
        """
        masked = mask(rows, self.config.masking, self.setting)
        batch = {
            "inputs": masked.inputs_BT,
            "documents": rows["documents"],
            "positions": masked.positions_BP,
            "targets": masked.targets_BP,
            "share": share(masked.targets_BP != IGNORED),
        }
        if self._has_pairs:
            batch |= {name: rows[name] for name in ("segments", "firsts", "labels")}
            batch["sentence_share"] = share(rows["labels"] != IGNORED)
        return batch

    def loss(self, model: Any, batch: Batch) -> Tensor:
        """Mean over the chosen tokens, with label smoothing and z-loss, plus the weighted mean over the pairs."""
        hidden_BTD = self._hidden(model, batch)
        targets_N = batch["targets"].flatten()
        mean = linear_cross_entropy(
            model.readout(gathered(hidden_BTD, batch["positions"]).flatten(0, 1)),
            model.head.weight,
            targets_N,
            bias_V=model.head.bias,
            label_smoothing=self.config.label_smoothing,
            z_loss=self.config.z_loss,
            chunks=self.setting.in_chunks,
        )
        loss = mean * (targets_N != IGNORED).sum() / total(batch["share"])
        if self._has_pairs:
            losses_BS = _label_losses(_sentence_logits(model, hidden_BTD, batch), batch["labels"])
            loss = loss + self.config.sentence_weight * losses_BS.sum() / total(batch["sentence_share"])
        return loss

    @torch.no_grad()
    def evaluate(self, model: Any, batch: Batch) -> Measures:
        """`loss`, and `masked_accuracy`, the share of the chosen tokens that are the likeliest of all.

        With a sentence task `loss` is the weighted sum that training minimises, a row's pairs counting by the number of
        its chosen tokens; `masked_loss`, `sentence_loss` and `sentence_accuracy` are its parts.
        """
        hidden_BTD = self._hidden(model, batch)
        targets_BP = batch["targets"]
        read_NE = model.readout(gathered(hidden_BTD, batch["positions"]).flatten(0, 1))
        losses_N, hits_N = losses_and_hits(read_NE, model.head.weight, targets_BP.flatten(), model.head.bias)
        loss_B, hits_B = (x_N.view(targets_BP.shape).sum(1, dtype=torch.float64) for x_N in (losses_N, hits_N))
        count_B = (targets_BP != IGNORED).sum(1)
        measures = {"loss": (loss_B, count_B), "masked_accuracy": (hits_B, count_B)}
        if not self._has_pairs:
            return measures
        logits_BSC, labels_BS = _sentence_logits(model, hidden_BTD, batch), batch["labels"]
        sentence_B = _label_losses(logits_BSC, labels_BS).sum(1, dtype=torch.float64)
        right_B = (logits_BSC.argmax(2) == labels_BS).sum(1, dtype=torch.float64)
        pairs_B = (labels_BS != IGNORED).sum(1)
        both_B = loss_B + self.config.sentence_weight * count_B * sentence_B / pairs_B.clamp(min=1)
        return {
            **measures,
            "loss": (both_B, count_B),
            "masked_loss": (loss_B, count_B),
            "sentence_loss": (sentence_B, pairs_B),
            "sentence_accuracy": (right_B, pairs_B),
        }

    def flops_per_token(self, model: Any, length: int) -> int:
        """The head reads P of `length` positions, whether a slot is used or not."""
        flops: int = model.flops_per_token(length, predicted=slots(self.config.masking, length) / length)
        return flops

    @property
    def _has_pairs(self) -> bool:
        return self.config.sentence_task != "none"

    def _hidden(self, model: Any, batch: Batch) -> Tensor:
        hidden_BTD: Tensor = model.hidden(
            batch["inputs"], batch["documents"], segments_BT=batch.get("segments"), causal=False
        )
        return hidden_BTD


def gathered(hidden_BTD: Tensor, positions_BP: Tensor) -> Tensor:
    """The hidden states (B, P, D) at some places (B, P) int64 of their rows."""
    return hidden_BTD.gather(1, positions_BP.unsqueeze(2).expand(-1, -1, hidden_BTD.shape[2]))


def _sentence_logits(model: Any, hidden_BTD: Tensor, batch: Batch) -> Tensor:
    """Logits (B, S, C) of the classes of each sequence, at least float32."""
    logits_BSC: Tensor = model.sentence_head(model.pooled(gathered(hidden_BTD, batch["firsts"])))
    return logits_BSC.to(torch.promote_types(logits_BSC.dtype, torch.float32))


def _label_losses(logits_BSC: Tensor, labels_BS: Tensor) -> Tensor:
    """Cross-entropy (B, S) of each sequence; 0 where its label is IGNORED."""
    return F.cross_entropy(logits_BSC.transpose(1, 2), labels_BS, ignore_index=IGNORED, reduction="none")
