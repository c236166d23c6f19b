"""Tiny models, tokenizers, checkpoints and shards for tests of what is done with a trained model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from training.checkpoints import TrainerState, save
from training.config import ModelConfig, Shard
from training.models.transformer import Transformer

TEXT = [
    "The man saw the book. The women see these books every day.",
    "他昨天买了三本书，老师把门关上了。你们好吗？",
    "Быстрая лисица прыгает. El niño come manzanas. 日本語のテキスト 👩‍👩‍👧",
]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Keep tiny products on one thread: sharing them out takes longer than computing them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tiny_tokenizer(vocabulary: int = 400) -> Tokenizer:
    """A byte-level BPE tokenizer; `<|endoftext|>` has id 0."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT * 5, trainer)
    return tokenizer


def tiny_model(vocabulary: int, context_length: int = 16, seed: int = 0) -> Transformer:
    """A random model whose predictions are far from uniform."""
    torch.manual_seed(seed)
    model = Transformer(ModelConfig(layers=2, heads=2, width=32, context_length=context_length), vocabulary)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.3 if parameter.ndim == 2 else 1.0))
    return model.eval()


def tiny_checkpoint(folder: Path, step: int = 10, context_length: int = 16, seed: int = 0, **facts: Any) -> Path:
    """Write a whole checkpoint with its tokenizer and return its folder."""
    tokenizer = tiny_tokenizer()
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer_path = folder / "tokenizer.json"
    tokenizer.save(str(tokenizer_path))
    model = tiny_model(tokenizer.get_vocab_size(), context_length, seed)
    description = {"end_of_text": 0, **facts}
    return save(folder / "checkpoints", model, TrainerState(step, {}, {}, {}), description, tokenizer_path)


def write_shard(
    path: Path, texts: list[str], tokenizer: Tokenizer, split: str, source: str = "", language: str = ""
) -> Shard:
    """Encode documents into one uint16 shard, each followed by the end-of-text id 0."""
    ids = [[*encoding.ids, 0] for encoding in tokenizer.encode_batch(texts)]
    tokens = np.array([token for document in ids for token in document], dtype="<u2")
    tokens.tofile(path)
    size = sum(len(text.encode()) for text in texts)
    return Shard(str(path), split, len(tokens), "uint16", source, language, size, len(texts))  # type: ignore[arg-type]
