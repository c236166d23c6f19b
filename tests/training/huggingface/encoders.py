"""Batches for encoders, and the comparison of one with a model of transformers: padded, and packed in one row."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from pipeline.tokens.tokenizer import train_tokenizer
from tests.training.huggingface.parity import LOGITS, LOSS, VOCABULARY, compare_gradients, randomize
from tests.training.small_models import TEXT
from training.checkpoints import TrainerState, save
from training.config import ModelConfig
from training.models import build

PADDING, MASK, FIRST, SEPARATOR = 1, 2, 3, 4
"""Ids of the pipeline's special tokens."""
IGNORED = -100
GRADIENT = 3e-5
"""As in parity.py; sums run in another order in packed rows."""


@dataclass(frozen=True)
class Sequences:
    """Sequences of several lengths, one behind another in each tensor, with what is to be predicted."""

    lengths: tuple[int, ...]
    ids: Tensor
    segments: Tensor
    labels: Tensor
    """Ids to predict, or IGNORED."""
    replaced: Tensor
    """0 or 1 for each token."""
    sentence_labels: Tensor
    """0 or 1 for each sequence."""

    def padded(self, flat: Tensor, padding: int) -> Tensor:
        """(B, T) with a sequence a row."""
        return torch.nn.utils.rnn.pad_sequence(list(flat.split(self.lengths)), True, padding)

    def row(self, flat: Tensor, padding: int, spare: int = 3) -> Tensor:
        """(1, T) with all sequences in one row, and padding behind them."""
        return F.pad(flat, (0, spare), value=padding)[None]

    @property
    def numbers(self) -> Tensor:
        """From 1 on, the number of the sequence that each token belongs to."""
        counts = torch.arange(1, len(self.lengths) + 1)
        return counts.repeat_interleave(torch.tensor(self.lengths))

    @property
    def starts(self) -> Tensor:
        """Where each sequence begins, all being one behind another."""
        return torch.tensor((0, *self.lengths)).cumsum(0)[:-1]


def sequences(lengths: tuple[int, ...] = (24, 9, 17), token_types: int = 2, seed: int = 0) -> Sequences:
    """Random ones; the second part of each is of another type."""
    generator = torch.Generator().manual_seed(seed)
    total = sum(lengths)
    ids = torch.randint(5, VOCABULARY, (total,), generator=generator)
    chosen = torch.rand(total, generator=generator) < 0.4
    second = torch.cat([torch.arange(length) >= length // 3 for length in lengths])
    return Sequences(
        lengths,
        torch.where(chosen, MASK, ids),
        second.long() if token_types > 1 else torch.zeros_like(ids),
        torch.where(chosen, ids, IGNORED),
        (torch.rand(total, generator=generator) < 0.3).long(),
        torch.tensor([index % 2 for index in range(len(lengths))]),
    )


def compare_encoder(ours: Any, theirs: Any, family: str, data: Sequences) -> None:
    """Assert that logits, losses and all gradients are those of transformers, padded and packed.

    Transformers reads padded rows with their attention_mask. Ours reads the same rows with documents 1 and 0, and then
    all sequences in one row.
    """
    theirs = theirs.float().eval()
    theirs.zero_grad()
    expected = _theirs(theirs, data)
    expected["loss"].backward()
    valid = data.padded(data.numbers, 0) > 0
    types = ours.config.token_types
    padded = {
        "ids_BT": data.padded(data.ids, PADDING),
        "documents_BT": valid.long(),
        "segments_BT": data.padded(data.segments, 0) if types else None,
    }
    packed = {
        "ids_BT": data.row(data.ids, PADDING),
        "documents_BT": data.row(data.numbers, 0),
        "segments_BT": data.row(data.segments, 0) if types else None,
    }
    for inputs, real in ((padded, valid), (packed, packed["documents_BT"] > 0)):
        ours.eval().zero_grad()
        found = _ours(ours, inputs, real, data)
        assert found.keys() == expected.keys()
        for name, value in found.items():
            torch.testing.assert_close(value, expected[name], **(LOGITS if name.endswith("logits") else LOSS))
        found["loss"].backward()
        compare_gradients(ours, theirs, family, GRADIENT)


def _theirs(model: Any, data: Sequences) -> dict[str, Tensor]:
    """Logits of the real tokens and losses by name; the sum of the losses is the model's own `loss`."""
    mask = data.padded(data.numbers, 0) > 0
    inputs = {"input_ids": data.padded(data.ids, PADDING), "attention_mask": mask.long()}
    if data.segments.any():
        inputs["token_type_ids"] = data.padded(data.segments, 0)
    kind = type(model).__name__
    discriminates = kind == "ElectraForPreTraining"
    inputs["labels"] = data.padded(data.replaced, 0) if discriminates else data.padded(data.labels, IGNORED)
    if discriminates:
        output = model(**inputs)
        return {"replaced_logits": output.logits[mask], "replaced": output.loss, "loss": output.loss}
    name = {"BertForPreTraining": "next_sentence_label", "AlbertForPreTraining": "sentence_order_label"}.get(kind)
    if name is None:
        output = model(**inputs)
        return {"logits": output.logits[mask], "masked": output.loss, "loss": output.loss}
    output = model(**inputs, **{name: data.sentence_labels})
    logits = output.prediction_logits[mask]
    sentences = output.sop_logits if kind.startswith("Albert") else output.seq_relationship_logits
    return {
        "logits": logits,
        "masked": F.cross_entropy(logits, data.labels),
        "sentence_logits": sentences,
        "sentence": F.cross_entropy(sentences, data.sentence_labels),
        "loss": output.loss,
    }


def _ours(model: Any, inputs: Mapping[str, Any], real: Tensor, data: Sequences) -> dict[str, Tensor]:
    hidden = model.hidden(**inputs)[real]
    if model.replaced_head is not None:
        logits = model.replaced_logits(hidden)
        loss = F.binary_cross_entropy_with_logits(logits, data.replaced.float())
        return {"replaced_logits": logits, "replaced": loss, "loss": loss}
    logits = model.head(model.readout(hidden))
    masked = F.cross_entropy(logits, data.labels)
    if model.sentence_head is None:
        return {"logits": logits, "masked": masked, "loss": masked}
    sentences = model.sentence_head(model.pooled(hidden[data.starts]))
    sentence = F.cross_entropy(sentences, data.sentence_labels)
    return {
        "logits": logits,
        "masked": masked,
        "sentence_logits": sentences,
        "sentence": sentence,
        "loss": masked + sentence,
    }


def random_theirs(kind: Any, config: Any, seed: int = 0) -> Any:
    """A model of transformers with weights far from any initialisation."""
    model = kind(config)
    randomize(model, seed)
    return model


def encoder_checkpoint(folder: Path, seed: int = 0, padding: int = PADDING, **config: Any) -> Path:
    """A checkpoint of random weights with a tokenizer of the pipeline, whose special tokens have the ids 0 to 4."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_bytes(tokenizer_json())
    model = build(ModelConfig(**config), VOCABULARY)
    randomize(model, seed)
    special = {"padding": padding, "mask": MASK, "first": FIRST, "separator": SEPARATOR}
    facts = {"end_of_text": 0, "special_tokens": special, "objective": "masked", "metrics": {"validation/loss": 3.25}}
    return save(folder / "checkpoints", model, TrainerState(7, {}, {}, {}), facts, folder / "tokenizer.json")


@functools.cache
def tokenizer_json() -> bytes:
    """A byte-level BPE tokenizer as the pipeline makes it."""
    data, facts = train_tokenizer(TEXT * 5, VOCABULARY, "gpt2")
    assert facts.vocabulary_size <= VOCABULARY
    return data


def tokenizer() -> Tokenizer:
    """The tokenizer itself."""
    return Tokenizer.from_str(tokenizer_json().decode())
