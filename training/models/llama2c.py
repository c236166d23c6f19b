"""Models of llama2.c (Karpathy 2023): a flat file of float32 weights, and a tokenizer in a file of its own.

The layout is that of the project's first export, which its small story models are published in. Rotary positions turn
neighbouring pairs of a head there; here they turn its halves, so the rows of queries and keys change their order.
"""

from __future__ import annotations

import json
import math
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from training.checkpoints import TrainerState, list_checkpoints, save
from training.config import ModelConfig
from training.models import build
from training.models.huggingface.rope import pairs_to_halves

BEGIN_OF_TEXT = 1
"""Stands before each text of the training data, and so behind the one before it, too."""
_UNKNOWN, _END = 0, 2
_SPACE = "\u2581"
"""What stands for a space in the pieces of SentencePiece."""
_LARGEST = 1 << 24
"""No number in a header is larger; more is a file of another kind."""


class Header(NamedTuple):
    """The seven 32-bit integers at the head of the weights."""

    width: int
    mlp_width: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    """Negative where the output has a matrix of its own."""
    context_length: int


def import_llama2c(weights: str | Path, checkpoints_dir: str | Path, tokenizer: str | Path | None = None) -> Path:
    """Write a model of llama2.c as `checkpoints_dir`/step-00000000 and return that.

    `weights` is a .bin of the first (unversioned, float32) layout, `tokenizer` its tokenizer's .bin; without one the
    checkpoint cannot read text. Raises ValueError naming the file that is none, is truncated or does not fit, and where
    `checkpoints_dir` holds a checkpoint already.
    """
    source, target = Path(weights), Path(checkpoints_dir)
    if existing := list_checkpoints(target):
        raise ValueError(f"{target}: holds {existing[-1].name} already; import it under another name")
    header = read_header(source)
    config = _config(header, source)
    vocabulary_size = abs(header.vocabulary)
    document = None if tokenizer is None else read_tokenizer(Path(tokenizer), vocabulary_size)
    with torch.device("meta"):
        model = build(config, vocabulary_size)
    model.load_state_dict(_parameters(source, header, config), assign=True)
    if config.tied_embeddings:
        model.head.weight = model.embedding.weight  # type: ignore[union-attr]
    description = {
        "imported": {"architecture": "llama2.c", "folder": source.name},
        "objective": "causal",
        "end_of_text": BEGIN_OF_TEXT,
        "begin_of_text": BEGIN_OF_TEXT,
    }
    if document is None:
        return save(target, model, TrainerState(0, {}, {}, {}), description)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tokenizer.json")
        path.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
        return save(target, model, TrainerState(0, {}, {}, {}), description, path)


def read_header(path: Path) -> Header:
    """The shape of a model; raises ValueError for what is no such file."""
    try:
        with path.open("rb") as file:
            start = file.read(28)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
    if start[:4] == b"24ka":
        raise ValueError(f"{path}: a versioned export of llama2.c; only the first layout (--version 0) is supported")
    if len(start) < 28:
        raise ValueError(f"{path}: no model of llama2.c: {len(start)} bytes are too few")
    header = Header(*struct.unpack("<7i", start))
    plain = header._replace(vocabulary=abs(header.vocabulary))
    if not all(0 < number < _LARGEST for number in plain) or header.width % header.heads:
        raise ValueError(f"{path}: no model of llama2.c: its header says {header}")
    return header


def _config(header: Header, path: Path) -> ModelConfig:
    try:
        return ModelConfig(
            layers=header.layers,
            heads=header.heads,
            kv_heads=None if header.kv_heads == header.heads else header.kv_heads,
            width=header.width,
            context_length=header.context_length,
            mlp="swiglu",
            mlp_width=header.mlp_width,
            norm_epsilon=1e-5,
            qk_norm="none",
            tied_embeddings=header.vocabulary > 0,
            initialization="gpt2",
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _parameters(path: Path, header: Header, config: ModelConfig) -> dict[str, Tensor]:
    """Our parameters by name; every part of the file has the layers one behind another."""
    width, hidden, layers = header.width, header.mlp_width, header.layers
    keys, half = config.key_value_heads * config.width_of_head, config.width_of_head // 2
    shapes: dict[str, tuple[int, ...]] = {
        "embedding": (abs(header.vocabulary), width),
        "attention_norm": (layers, width),
        "queries": (layers, width, width),
        "keys": (layers, keys, width),
        "values": (layers, keys, width),
        "output": (layers, width, width),
        "mlp_norm": (layers, width),
        "gate": (layers, hidden, width),
        "down": (layers, width, hidden),
        "up": (layers, hidden, width),
        "norm": (width,),
        "cosine": (header.context_length, half),
        "sine": (header.context_length, half),
    }
    if header.vocabulary < 0:
        shapes["head"] = (-header.vocabulary, width)
    expected = 28 + 4 * sum(math.prod(shape) for shape in shapes.values())
    if path.stat().st_size != expected:
        raise ValueError(f"{path}: {path.stat().st_size:,} bytes, but a model of {header} has {expected:,}")
    flat = torch.from_numpy(np.fromfile(path, dtype="<f4", offset=28).astype(np.float32))
    pieces = flat.split([math.prod(shape) for shape in shapes.values()])
    parts = {name: piece.view(shape) for piece, (name, shape) in zip(pieces, shapes.items(), strict=True)}
    found = {"embedding.weight": parts["embedding"], "norm.weight": parts["norm"]}
    found["head.weight"] = parts.get("head", parts["embedding"])
    for layer in range(layers):
        at = f"blocks.{layer}"
        queries = pairs_to_halves(parts["queries"][layer], config.heads)
        turned_keys = pairs_to_halves(parts["keys"][layer], config.key_value_heads)
        found |= {
            f"{at}.attention_norm.weight": parts["attention_norm"][layer],
            f"{at}.attention.qkv.weight": torch.cat([queries, turned_keys, parts["values"][layer]]),
            f"{at}.attention.output.weight": parts["output"][layer],
            f"{at}.mlp_norm.weight": parts["mlp_norm"][layer],
            f"{at}.mlp.input.weight": torch.cat([parts["gate"][layer], parts["up"][layer]]),
            f"{at}.mlp.output.weight": parts["down"][layer],
        }
    return {name: tensor.clone() for name, tensor in found.items()}


def read_tokenizer(path: Path, vocabulary_size: int) -> dict[str, Any]:
    """The document of a tokenizer.json that encodes as llama2.c does: SentencePiece's BPE with single bytes.

    Of two neighbouring pieces those are joined whose whole has the highest score; hence a pair's rank is that of its
    whole. Raises ValueError where the file is damaged or of another model.
    """
    pieces = list(_pieces(path))
    if len(pieces) != vocabulary_size:
        raise ValueError(f"{path}: holds {len(pieces)} pieces, the model has {vocabulary_size} tokens")
    if len(pieces) < 259 or pieces[_UNKNOWN][0] != "<unk>" or pieces[3][0] != "<0x00>":
        raise ValueError(f"{path}: damaged: its first pieces are not <unk>, <s>, </s> and the 256 bytes")
    texts = ["<unk>", "<s>", "</s>", *(text.replace(" ", _SPACE) for text, _ in pieces[3:])]
    vocabulary = {text: number for number, text in enumerate(texts)}
    ranked = sorted(range(259, len(texts)), key=lambda number: -pieces[number][1])
    merges = [
        [whole[:cut], whole[cut:]]
        for whole in (texts[number] for number in ranked)
        for cut in range(1, len(whole))
        if whole[:cut] in vocabulary and whole[cut:] in vocabulary
    ]
    special = [
        {"id": number, "content": texts[number], "special": True, "normalized": False}
        | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
        for number in (_UNKNOWN, BEGIN_OF_TEXT, _END)
    ]
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    back = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": _SPACE}, spaces]},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, strip]},
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": vocabulary,
            "merges": merges,
        },
    }


def _pieces(path: Path) -> Iterator[tuple[str, float]]:
    """Each piece and its score, in the order of the ids."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
    at = 4
    try:
        while at < len(data):
            score, length = struct.unpack_from("<fi", data, at)
            at += 8
            if length < 0 or at + length > len(data):
                raise ValueError(f"a piece of {length} bytes")
            yield data[at : at + length].decode("utf-8"), score
            at += length
    except (struct.error, ValueError) as error:
        raise ValueError(f"{path}: damaged at byte {at}: {error}") from None
