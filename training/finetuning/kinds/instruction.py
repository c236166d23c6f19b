"""Instruction tuning: conversations in the chat template of the model, with the loss on the answers alone.

Conversations share rows, each seeing itself alone, so that no step is spent on padding (Raffel et al. 2020, section
3.5.1: packing). Shape suffixes: N items, T tokens, P positions that are learned, D width.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.finetuning.config import TaskConfig
from training.finetuning.kinds.kind import IGNORED, Item, Kind
from training.finetuning.network import Network
from training.finetuning.sequences import Encoded, Ids, Reader
from training.finetuning.tables import Row
from training.objectives.cross_entropy import linear_cross_entropy, losses_and_hits

Message = dict[str, str]


class Instruction(Kind):
    """The model's own vocabulary head is trained; `template` (chat) has `answers` and `source`."""

    has_head = False

    def __init__(self, task: TaskConfig, reader: Reader, label_smoothing: float = 0.0, pack: bool = True) -> None:
        super().__init__(task, reader, label_smoothing)
        config = reader.config
        if config.architecture != "transformer" or config.attention != "causal":
            raise ValueError(
                f"tasks.{task.name}: instruction tuning needs a model that reads from left to right, got architecture "
                f"{config.architecture} with {config.attention} attention"
            )
        self.pack = pack
        self.template = reader.chat_template()

    @property
    def outputs(self) -> int:
        """The vocabulary's."""
        return self.reader.vocabulary_size

    def examples(self, rows: Sequence[Row]) -> list[list[Message]]:
        """Conversations; raises ValueError naming the row for one of another form or without an answer."""
        return [self._conversation(row) for row in rows]

    def _conversation(self, row: Row) -> list[Message]:
        columns = self.task.columns
        if not columns.messages:
            return [
                {"role": "user", "content": row.text(columns.text)},
                {"role": "assistant", "content": row.text(columns.second)},
            ]
        messages = row.value(columns.messages)
        whole = isinstance(messages, list) and all(
            isinstance(one, dict) and isinstance(one.get("role"), str) and isinstance(one.get("content"), str)
            for one in messages
        )
        if not whole or not any(one["role"] == "assistant" for one in messages):
            raise ValueError(
                f"{row.place}: {columns.messages}: expected a list of {{role, content}} with an answer of the assistant"
            )
        return [{"role": one["role"], "content": one["content"]} for one in messages]

    def items(self, examples: Sequence[Any], training: bool) -> list[Item]:
        """A sequence for each conversation, in training with others in its row; those whose answers are cut are left
        out."""
        items = []
        for place, (ids, learned) in enumerate(self._encoded(examples)):
            cut, mine = ids[: self.reader.max_length], learned[: self.reader.max_length]
            target = np.full(len(cut), IGNORED, dtype=np.int64)
            target[:-1] = np.where(mine[1:], cut[1:], IGNORED)
            if (target != IGNORED).any():
                items.append(Item(place, (Encoded(cut, np.zeros_like(cut)),), target))
        if not items:
            raise ValueError(
                f"tasks.{self.task.name}: no answer begins within max_length = {self.reader.max_length} tokens"
            )
        return packed(items, self.reader.max_length) if training and self.pack else items

    def _encoded(self, examples: Sequence[Any]) -> list[tuple[Ids, Ids]]:
        """Ids of whole conversations, and which of them belong to answers.

        Each stretch between the borders of answers is split into tokens on its own: so a prompt has the tokens that it
        has when the model is asked.
        """
        pieces: list[str] = []
        counts: list[list[bool]] = []
        for messages in examples:
            text, spans = self.template.answers(messages)
            borders = [0, *(border for span in spans for border in span), len(text)]
            parts = [text[begin:end] for begin, end in itertools.pairwise(borders)]
            pieces += parts
            counts.append([bool(number % 2) for number in range(len(parts))])
        encoded = iter(self.reader.ids(pieces))
        found = []
        for flags in counts:
            mine = [next(encoded) for _ in flags]
            ids = np.concatenate(mine)
            learned = np.concatenate([np.full(len(part), flag) for part, flag in zip(mine, flags, strict=True)])
            if tuple(ids[: len(self.reader.before)]) != self.reader.before:  # some templates begin the text themselves
                ids = np.concatenate([self.reader.before, ids]).astype(np.int64)
                learned = np.concatenate([np.zeros(len(self.reader.before), dtype=bool), learned])
            found.append((ids, learned))
        return found

    def truncated(self, examples: Sequence[Any]) -> int:
        """How many conversations exceed the longest input."""
        return sum(len(ids) > self.reader.max_length for ids, _ in self._encoded(examples))

    def scores(self, network: Network, items: Sequence[Item]) -> Tensor:
        """Hidden states of the positions that are learned, (P, D)."""
        hidden_NTD = network.hidden(network.batch([item.sequences[0] for item in items]))
        targets_NT = np.full(hidden_NTD.shape[:2], IGNORED, dtype=np.int64)
        for row, item in enumerate(items):
            targets_NT[row, : len(item.target)] = item.target
        places = torch.from_numpy(np.flatnonzero(targets_NT != IGNORED)).to(hidden_NTD.device)
        self._network = network
        return hidden_NTD.flatten(0, 1)[places]

    def loss(self, scores: Tensor, items: Sequence[Item]) -> Tensor:
        """Cross-entropy of the answers' tokens."""
        network, targets_P = self._network, _targets(items).to(scores.device)
        with network.compute.autocast():
            read_PD, head = network.model.readout(scores), network.model.head
            if type(head) is nn.Linear:
                # In chunks the gradient of the head is computed, whether it is trained or not.
                mean = linear_cross_entropy(
                    read_PD,
                    head.weight,
                    targets_P,
                    bias_V=head.bias,
                    label_smoothing=self.label_smoothing,
                    chunks=head.weight.requires_grad and torch.is_grad_enabled(),
                )
                return mean * len(targets_P)
            logits_PV = head(read_PD).float()
        return F.cross_entropy(logits_PV, targets_P, reduction="sum", label_smoothing=self.label_smoothing)

    def weight(self, items: Sequence[Item]) -> float:
        """Tokens of answers."""
        return float(sum(int((item.target != IGNORED).sum()) for item in items))

    def outcomes(self, scores: Tensor, items: Sequence[Item]) -> list[Any]:
        """The losses of each item's tokens, and whether each was the likeliest."""
        model, counts = self._network.model, [int((item.target != IGNORED).sum()) for item in items]
        read_PD, targets_P = model.readout(scores), _targets(items).to(scores.device)
        if type(model.head) is nn.Linear:
            losses_P, hits_P = losses_and_hits(read_PD, model.head.weight, targets_P, model.head.bias)
        else:
            logits_PV = model.head(read_PD).float()
            losses_P = F.cross_entropy(logits_PV, targets_P, reduction="none")
            hits_P = logits_PV.argmax(1) == targets_P
        split = zip(losses_P.cpu().split(counts), hits_P.cpu().split(counts), strict=True)
        return [Answered(float(losses.double().sum()), int(hits.sum()), len(losses)) for losses, hits in split]

    def predictions(self, examples: Sequence[Any], items: Sequence[Item], outcomes: Sequence[Any]) -> list[Any]:
        """The loss of the answers of each conversation; without one where they were cut off."""
        found: list[dict[str, Any]] = [{"loss": None, "right": 0, "tokens": 0} for _ in examples]
        for item, one in zip(items, outcomes, strict=True):
            found[item.example] = {"loss": one.loss / one.tokens, "right": one.right, "tokens": one.tokens}
        return found

    def metrics(self, examples: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
        """loss, perplexity and accuracy of the answers' tokens."""
        read = [one for one in predictions if one["tokens"]]
        tokens = sum(one["tokens"] for one in read)
        loss = sum(one["loss"] * one["tokens"] for one in read) / tokens
        return {
            "loss": loss,
            "perplexity": float(np.exp(min(loss, 700.0))),
            "accuracy": sum(one["right"] for one in read) / tokens,
        }

    @property
    def label_column(self) -> str:
        """The answer, or the conversation that holds it."""
        return self.task.columns.messages or self.task.columns.second

    def describe(self) -> dict[str, Any]:
        """The template is part of the checkpoint as `chat_template`."""
        return {"name": self.task.name, "kind": self.task.kind}


class Answered(NamedTuple):
    """Sums over the answers' tokens of an item."""

    loss: float
    right: int
    tokens: int


def packed(items: Sequence[Item], length: int) -> list[Item]:
    """Rows of at most `length` tokens: each item, the longest first, goes into the first row that has room for it."""
    rows: list[list[Item]] = []
    spare: list[int] = []
    for item in sorted(items, key=lambda item: (-item.length, item.example)):
        row = next((row for row, room in enumerate(spare) if room >= item.length), len(rows))
        if row == len(rows):
            rows.append([])
            spare.append(length)
        rows[row].append(item)
        spare[row] -= item.length
    return [_joined(row) for row in rows]


def _joined(row: list[Item]) -> Item:
    ids = np.concatenate([item.sequences[0].ids for item in row])
    numbers = np.repeat(np.arange(1, len(row) + 1), [item.length for item in row])
    encoded = Encoded(ids, np.zeros_like(ids), numbers)
    return Item(row[0].example, (encoded,), np.concatenate([item.target for item in row]))


def _targets(items: Sequence[Item]) -> Tensor:
    return torch.from_numpy(np.concatenate([item.target[item.target != IGNORED] for item in items]))
