"""A file of llama2.c computes what its formula says, in NumPy, and its tokenizer joins pieces by their scores."""

from __future__ import annotations

import itertools
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from training.checkpoints import describe, load_model
from training.models.llama2c import import_llama2c

WIDTH, HIDDEN, LAYERS, HEADS, KV_HEADS, CONTEXT = 16, 24, 2, 4, 2, 12
PIECES = [" ", "a", "b", "c", "é", " a", "ab", "bc", " ab", "abc", " abc", "cc", "bcc"]
"""Behind the bytes; the later half has higher scores than the earlier one."""
SCORES = [-50.0, -51.0, -52.0, -53.0, -54.0, -4.0, -3.0, -2.0, -6.0, -1.0, -9.0, -5.0, -0.5]
VOCABULARY = 259 + len(PIECES)


def write_tokenizer(path: Path) -> None:
    """As the project's export writes it."""
    texts = ["<unk>", "\n<s>\n", "\n</s>\n", *(f"<0x{byte:02X}>" for byte in range(256)), *PIECES]
    data = struct.pack("<i", max(len(text.encode()) for text in texts))
    for text, score in zip(texts, [0.0] * 259 + SCORES, strict=True):
        data += struct.pack("<fi", score, len(text.encode())) + text.encode()
    path.write_bytes(data)


def write_weights(path: Path, tied: bool) -> dict[str, np.ndarray]:
    """Random weights in the order of the format; the positions' table is written, and read by nobody."""
    random = np.random.default_rng(0)
    head, keys = WIDTH // HEADS, WIDTH // HEADS * KV_HEADS
    shapes = {
        "embedding": (VOCABULARY, WIDTH),
        "norm1": (LAYERS, WIDTH),
        "q": (LAYERS, WIDTH, WIDTH),
        "k": (LAYERS, keys, WIDTH),
        "v": (LAYERS, keys, WIDTH),
        "o": (LAYERS, WIDTH, WIDTH),
        "norm2": (LAYERS, WIDTH),
        "w1": (LAYERS, HIDDEN, WIDTH),
        "w2": (LAYERS, WIDTH, HIDDEN),
        "w3": (LAYERS, HIDDEN, WIDTH),
        "norm": (WIDTH,),
        "real": (CONTEXT, head // 2),
        "imaginary": (CONTEXT, head // 2),
        **({} if tied else {"head": (VOCABULARY, WIDTH)}),
    }
    weights = {name: random.normal(size=shape).astype("<f4") for name, shape in shapes.items()}
    header = (WIDTH, HIDDEN, LAYERS, HEADS, KV_HEADS, VOCABULARY if tied else -VOCABULARY, CONTEXT)
    path.write_bytes(struct.pack("<7i", *header) + b"".join(value.tobytes() for value in weights.values()))
    return weights


def forward(weights: dict[str, np.ndarray], ids: list[int]) -> np.ndarray:
    """Logits (T, V) float64, a position at a time, as the C program goes."""
    head = WIDTH // HEADS

    def norm(x: np.ndarray, gain: np.ndarray) -> np.ndarray:
        return gain * x / np.sqrt((x * x).mean() + 1e-5)

    def turned(x: np.ndarray, place: int) -> np.ndarray:
        x = x.copy().reshape(-1, head)
        for i in range(0, head, 2):
            angle = place / 10_000.0 ** (i / head)
            a, b = x[:, i].copy(), x[:, i + 1].copy()
            x[:, i], x[:, i + 1] = a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)
        return x

    memory: list[tuple[list[np.ndarray], list[np.ndarray]]] = [([], []) for _ in range(LAYERS)]
    rows = []
    for place, token in enumerate(ids):
        x = weights["embedding"][token].astype(np.float64)
        for layer, (keys, values) in enumerate(memory):
            y = norm(x, weights["norm1"][layer])
            q = turned(weights["q"][layer] @ y, place)
            keys.append(turned(weights["k"][layer] @ y, place))
            values.append((weights["v"][layer] @ y).reshape(-1, head))
            mixed = []
            for h in range(HEADS):
                group = h // (HEADS // KV_HEADS)
                scores = np.array([q[h] @ key[group] for key in keys]) / np.sqrt(head)
                shares = np.exp(scores - scores.max())
                mixed.append(sum(s * value[group] for s, value in zip(shares / shares.sum(), values, strict=True)))
            x = x + weights["o"][layer] @ np.concatenate(mixed)
            y = norm(x, weights["norm2"][layer])
            gate = weights["w1"][layer] @ y
            x = x + weights["w2"][layer] @ (gate / (1 + np.exp(-gate)) * (weights["w3"][layer] @ y))
        rows.append(weights.get("head", weights["embedding"]) @ norm(x, weights["norm"]))
    return np.stack(rows)


@pytest.mark.parametrize("tied", [True, False])
def test_the_logits_are_those_of_the_program(tied: bool, tmp_path: Path) -> None:
    weights = write_weights(tmp_path / "model.bin", tied)
    write_tokenizer(tmp_path / "tok.bin")
    checkpoint = import_llama2c(tmp_path / "model.bin", tmp_path / "ours", tmp_path / "tok.bin")
    model, config = load_model(checkpoint)
    assert config.tied_embeddings == tied
    ids = [1, 260, 265, 259, 3, 271, 264, 266, 268, 2, 1, 262]
    with torch.no_grad():
        found = model(torch.tensor([ids]))[0]
    np.testing.assert_allclose(found.numpy(), forward(weights, ids), rtol=1e-4, atol=1e-4)
    facts = describe(checkpoint)
    assert (facts["begin_of_text"], facts["end_of_text"]) == (1, 1)
    assert facts["imported"] == {"architecture": "llama2.c", "folder": "model.bin"}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_weights(folder / "model.bin", True)
    write_tokenizer(folder / "tok.bin")
    checkpoint = import_llama2c(folder / "model.bin", folder / "ours", folder / "tok.bin")
    return Tokenizer.from_file(str(checkpoint / "tokenizer.json"))


def encoded(text: str) -> list[int]:
    """As the C program does it: characters or their bytes, then the best of all joinings, again and again."""
    number = {piece: 259 + index for index, piece in enumerate(PIECES)}
    text_of = {index: piece for piece, index in number.items()}
    ids: list[int] = []
    for character in f" {text}" if text else "":
        ids += [number[character]] if character in number else [3 + byte for byte in character.encode()]
    while True:
        pairs = [text_of.get(a, "\0") + text_of.get(b, "\0") for a, b in itertools.pairwise(ids)]
        known = [(-SCORES[number[pair] - 259], at) for at, pair in enumerate(pairs) if pair in number]
        if not known:
            return ids
        at = min(known)[1]
        ids[at : at + 2] = [number[pairs[at]]]


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="abc éÜ中", max_size=12))
def test_the_tokenizer_joins_by_scores(tokenizer: Tokenizer, text: str) -> None:
    ids = encoded(text)
    assert tokenizer.encode(text).ids == ids
    assert tokenizer.decode(ids) == text


def test_bad_files_are_named(tmp_path: Path) -> None:
    weights, pieces = tmp_path / "model.bin", tmp_path / "tok.bin"
    write_weights(weights, True)
    write_tokenizer(pieces)
    whole, whole_pieces = weights.read_bytes(), pieces.read_bytes()

    def refused(message: str, data: bytes = whole, tokens: bytes = whole_pieces, **options: Any) -> None:
        weights.write_bytes(data)
        pieces.write_bytes(tokens)
        with pytest.raises(ValueError, match=message):
            import_llama2c(weights, tmp_path / "ours", pieces)
        assert not (tmp_path / "ours").exists()

    refused(r"model.bin: [\d,]+ bytes, but a model of .* has", whole[:-4])
    refused("model.bin: no model of llama2.c: 9 bytes are too few", whole[:9])
    refused("a versioned export of llama2.c", b"24ka" + whole[4:])
    refused("no model of llama2.c: its header says", struct.pack("<7i", *[2**30] * 7) + whole[28:])
    refused("tok.bin: damaged at byte", tokens=whole_pieces[:-3])
    refused("tok.bin: holds 259 pieces, the model has 272", tokens=whole_pieces[: len(whole_pieces) - 13 * 8 - 27])
    few = struct.pack("<7i", WIDTH, HIDDEN, LAYERS, HEADS, KV_HEADS, 2, CONTEXT)
    two = whole_pieces[: 4 + 8 + 5 + 8 + 5]  # <unk> and <s>
    refused("tok.bin: damaged: its first pieces are not", few + whole[28:], two)
    weights.write_bytes(whole)
    import_llama2c(weights, tmp_path / "ours")
    with pytest.raises(ValueError, match="holds step-00000000 already"):
        import_llama2c(weights, tmp_path / "ours")
