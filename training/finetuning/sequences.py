"""Texts as sequences of a model: special tokens around them, pairs, cuts, and batches with padding.

Shape suffixes: B sequences, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.checkpoints import describe
from training.config import ModelConfig, SpecialTokens, from_dict
from training.evaluation.batching import padded
from training.generation import begin_of_text_id, end_of_text_id, load_tokenizer
from training.models.transformer import Transformer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Ids = NDArray[np.int64]
Pooling = Literal["first", "mean", "last"]
POOLINGS = ("first", "mean", "last")


class Encoded(NamedTuple):
    """One sequence as the model reads it."""

    ids: Ids
    segments: Ids
    """0 for the first text with what frames it, 1 for the second."""
    documents: Ids | None = None
    """From 1 on the number of the text that each token belongs to, where several share a row."""


class Batch(NamedTuple):
    """Sequences one below another, padded on the right."""

    ids_BT: Tensor
    documents_BT: Tensor | None
    """int64, 0 for padding; None where all is text."""
    segments_BT: Tensor | None
    lengths_B: Tensor


class Reader:
    """How one model reads: its tokenizer, its special tokens, its longest input.

    Attributes: config, tokenizer, before, between, after (ids around and between texts), padding, end_of_text (None
    where the checkpoint names none), vocabulary_size, max_length, pooling (what `auto` means for this model; that
    of a sentence encoder is its own).
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    pooling: Pooling

    def __init__(self, checkpoint: str | Path, max_length: int | None = None) -> None:
        self._checkpoint = checkpoint
        description = describe(checkpoint)
        self.config = from_dict(ModelConfig, description["model"], "model")
        self.vocabulary_size = int(description["vocabulary_size"])
        self.tokenizer: Tokenizer = load_tokenizer(checkpoint)
        # Those of sentence encoders are stored with a length to cut and to pad to.
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        special = from_dict(SpecialTokens, description.get("special_tokens") or {}, "special_tokens")
        try:
            self.end_of_text: int | None = end_of_text_id(checkpoint, self.tokenizer)
        except ValueError:  # encoders need none
            self.end_of_text = None
        self._frame(checkpoint, special)
        encoder = (description.get("pooling") or {}).get("mode")
        self.pooling = encoder if encoder in POOLINGS else self.pooling
        self.padding = next((one for one in (special.padding, self.end_of_text) if one is not None), 0)
        self.max_length = min(max_length or self.config.context_length, self.config.context_length)
        self.has_segments = self.config.token_types > 1 and self.config.architecture != "encoder_decoder"
        if self.room < 2:
            raise ValueError(f"max_length {self.max_length} leaves no room beside {self.framing} special tokens")

    def _frame(self, checkpoint: str | Path, special: SpecialTokens) -> None:
        """As in training: a first token and separators, the beginning of a text, its end, or both."""
        end = () if self.end_of_text is None else (self.end_of_text,)
        first = () if special.first is None else (special.first,)
        separator = () if special.separator is None else (special.separator,)
        self.between = separator or end
        if self.config.architecture == "encoder_decoder":
            self.before, self.after, self.pooling = (), end, "mean"
        elif self.config.architecture == "two_stream":
            # XLNet's published code puts its class token last (Yang et al. 2019, section 2.5).
            self.before, self.after, self.pooling = ((), (*separator, *first), "last") if first else (end, end, "last")
        elif self.config.attention == "causal":
            if self.end_of_text is None:
                raise ValueError(f"{checkpoint}: neither config.json nor the tokenizer names an end-of-text id")
            self.before, self.after, self.pooling = (begin_of_text_id(checkpoint, self.end_of_text),), (), "last"
        else:
            self.before, self.after, self.pooling = first, separator, "first" if first else "mean"

    def chat_template(self) -> Any:
        """The checkpoint's chat template, or the default one (`training.chat`)."""
        from training.chat import load_template

        return load_template(self._checkpoint, self.tokenizer)

    @property
    def framing(self) -> int:
        """Special tokens of a single text."""
        return len(self.before) + len(self.after)

    @property
    def room(self) -> int:
        """Tokens of text that fit beside those of a pair."""
        return self.max_length - self.framing - len(self.between)

    def ids(self, texts: Sequence[str]) -> list[Ids]:
        """The ids of texts, without any special ones."""
        encodings = self.tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]

    def single(self, ids: Ids) -> Encoded:
        """The sequence of one text, whose end is cut off where it is too long."""
        cut = ids[: self.max_length - self.framing]
        whole = np.concatenate([self.before, cut, self.after]).astype(np.int64)
        # A text without tokens still needs one that the model can read.
        whole = whole if len(whole) else np.array([self.padding], dtype=np.int64)
        return Encoded(whole, np.zeros(len(whole), dtype=np.int64))

    def pair(self, first: Ids, second: Ids) -> Encoded:
        """The sequence of two texts; where both are too long together the longer one loses its end (BERT's code)."""
        most_of_first, most_of_second = _fitting(len(first), len(second), self.room)
        head = np.concatenate([self.before, first[:most_of_first], self.between])
        ids = np.concatenate([head, second[:most_of_second], self.after]).astype(np.int64)
        return Encoded(ids, (np.arange(len(ids)) >= len(head)).astype(np.int64))

    def batch(self, sequences: Sequence[Encoded], device: torch.device) -> Batch:
        """Sequences as tensors on a device."""
        ids_BT, documents_BT = padded([one.ids for one in sequences], self.padding, device)
        if any(one.documents is not None for one in sequences):
            packed = [np.ones(len(one.ids)) if one.documents is None else one.documents for one in sequences]
            documents_BT = padded([row.astype(np.int64) for row in packed], 0, device).ids_BT
        segments_BT = None
        if self.has_segments:
            segments_BT = padded([one.segments for one in sequences], 0, device).ids_BT
        lengths_B = torch.tensor([len(one.ids) for one in sequences], device=device)
        return Batch(ids_BT, documents_BT, segments_BT, lengths_B)


def hidden_states(model: Any, batch: Batch, read: int | None = None) -> Tensor:
    """The last layer (B, T, D) of whatever reads text: the trunk, the discriminator, or the encoder.

    `read`: that of the first so many tokens alone; a plain Transformer then computes no others in its last block.
    """
    if hasattr(model, "encoded"):
        encoded_BTD: Tensor = model.encoded(batch.ids_BT, batch.documents_BT)
        return encoded_BTD[:, :read]
    trunk = getattr(model, "discriminator", model)
    asked = {"read": read} if isinstance(trunk, Transformer) else {}
    hidden_BTD: Tensor = trunk.hidden(batch.ids_BT, batch.documents_BT, segments_BT=batch.segments_BT, **asked)
    return hidden_BTD[:, :read]


def pooled(hidden_BTD: Tensor, batch: Batch, pooling: Pooling) -> Tensor:
    """A vector (B, D) for each sequence: its first token, its last one, or the mean of all."""
    rows_B = torch.arange(len(hidden_BTD), device=hidden_BTD.device)
    if pooling == "first":
        return hidden_BTD[:, 0]
    if pooling == "last":
        return hidden_BTD[rows_B, batch.lengths_B - 1]
    mine_BT = torch.arange(hidden_BTD.shape[1], device=hidden_BTD.device) < batch.lengths_B[:, None]
    return (hidden_BTD * mine_BT[..., None]).sum(1) / mine_BT.sum(1, keepdim=True)


def _fitting(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens of two texts are kept, the longer one being cut first (`longest_first` of tokenizers)."""
    if first + second <= room:
        return first, second
    if first > second:
        return _fitting(second, first, room)[::-1]
    kept = min(first, room // 2)
    return kept, room - kept
