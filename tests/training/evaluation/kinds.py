"""A tiny checkpoint of random weights for every kind of model, its tokenizer, and shards with marks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from training.checkpoints import TrainerState, save
from training.config import ModelConfig, ObjectiveConfig, Shard, SpecialTokens, check_fit, expand_preset, to_dict
from training.config.presets import expand_objective
from training.config.reading import from_dict
from training.models import build

TEXTS = [
    "The man saw the book. The women see these books every day. They read at home.",
    "A child reads the old book, and the king sees it. The house is old. A man reads.",
    "他昨天买了三本书，老师把门关上了。你们好吗？我们很好。",
]
SPECIAL = SpecialTokens(padding=1, mask=2, first=3, separator=4)
KINDS: dict[str, tuple[dict[str, Any], Any]] = {
    "gpt": ({"layers": 2, "heads": 2, "width": 32}, "gpt"),
    "bert": ({"preset": "bert-tiny"}, "bert"),
    "albert": ({"preset": "albert-tiny"}, "albert"),
    "roberta": ({"preset": "roberta-tiny"}, "roberta"),
    "electra": ({"preset": "electra-tiny"}, "electra"),
    "xlnet": ({"preset": "xlnet-tiny"}, "xlnet"),
    "t5": ({"preset": "t5-tiny", "head_width": 16}, "t5"),
    "prefix": ({"preset": "roberta-tiny"}, {"name": "prefix"}),
    "unilm": ({"preset": "roberta-tiny"}, "unilm"),
    "simcse": ({"preset": "bert-tiny", "sentence_classes": 0}, "simcse"),
}
"""Shape and objective of each kind."""
LENGTH = 64


def tokenizer_with_special_tokens(vocabulary: int = 330) -> Tokenizer:
    """Byte-level BPE; `<|endoftext|>` has id 0, the others follow."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|endoftext|>", "[PAD]", "[MASK]", "[CLS]", "[SEP]"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 5, trainer)
    return tokenizer


def write_marked_shard(path: Path, texts: list[str], tokenizer: Tokenizer, split: str, **facts: Any) -> Shard:
    """One uint16 shard with marks: a word begins behind a space or in Chinese, a sentence behind its end."""
    ids: list[int] = []
    marks: list[int] = []
    for encoding, text in zip(tokenizer.encode_batch(texts), texts, strict=True):
        sentence = True
        for token, (begin, end) in zip(encoding.ids, encoding.offsets, strict=True):
            word = begin == 0 or text[begin] == " " or ord(text[begin]) > 0x2000
            ids.append(token)
            marks.append(int(word or sentence) + 2 * sentence)
            sentence = text[end - 1] in ".。？"
        ids.append(0)
        marks.append(0)
    np.array(ids, dtype="<u2").tofile(path)
    np.array(marks, dtype=np.uint8).tofile(path.with_suffix(".marks"))
    size = sum(len(text.encode()) for text in texts)
    return Shard(
        str(path),
        split,  # type: ignore[arg-type]
        len(ids),
        text_bytes=size,
        documents=len(texts),
        marks=str(path.with_suffix(".marks")),
        **facts,
    )


def shards(folder: Path) -> list[Shard]:
    """Two train shards and three held-out ones."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tokenizer_with_special_tokens()
    return [
        write_marked_shard(folder / "train-0.bin", TEXTS * 6, tokenizer, "train"),
        write_marked_shard(folder / "train-1.bin", TEXTS[:2] * 3, tokenizer, "train"),
        write_marked_shard(folder / "v-en.bin", TEXTS[:2] * 2, tokenizer, "validation", source="wiki", language="en"),
        write_marked_shard(folder / "v-zh.bin", TEXTS[2:] * 3, tokenizer, "validation", source="wiki", language="zh"),
        write_marked_shard(folder / "v-web.bin", TEXTS[1:2], tokenizer, "validation", source="web", language="en"),
    ]


def checkpoint(folder: Path, kind: str, **objective: Any) -> Path:
    """Write a checkpoint of one of KINDS and return its folder."""
    shape, named = KINDS[kind]
    shape = {**expand_preset(shape), "context_length": LENGTH, "width": 32, "heads": 2, "dropout": 0.1}
    shape |= {"embedding_width": None} if kind == "electra" else {}
    config = from_dict(ModelConfig, shape)
    learned = dataclasses.replace(from_dict(ObjectiveConfig, expand_objective(named)), **objective)
    check_fit(config, learned)
    tokenizer = tokenizer_with_special_tokens()
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    model = build(config, tokenizer.get_vocab_size() + learned.extra_tokens)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4.0)  # far from uniform
    description = {
        "end_of_text": 0,
        "objective": to_dict(learned),
        "special_tokens": to_dict(SPECIAL),
        "sequence_length": LENGTH,
        "tokenizer_vocabulary_size": tokenizer.get_vocab_size(),
    }
    return save(
        folder / "checkpoints", model.eval(), TrainerState(7, {}, {}, {}), description, folder / "tokenizer.json"
    )
