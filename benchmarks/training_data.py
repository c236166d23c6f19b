"""Token shards for the benchmarks of training: tiny-shakespeare by character, and drawn tokens."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from training.config import Shard

TEXT = Path(__file__).parents[2] / "shared/data/text/tinyshakespeare.txt.gz"
TRAIN_SHARE = 0.9


def read_text(path: Path | None) -> str:
    """Tiny-shakespeare, from a plain or gzipped file. Raises SystemExit where it is not there."""
    path = path or TEXT
    if not path.exists():
        raise SystemExit(f"{path}: no such file; name tiny-shakespeare's text with --text FILE")
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return data.decode("utf-8")


def by_character(text: str, folder: Path) -> tuple[list[Shard], int]:
    """Shards of the published split (the first 90 % train), and the size of the vocabulary.

    Ids follow the order of code points, as in nanoGPT's preparation. The vocabulary has one id more, the last one: an
    end of text, which a run must have and which occurs in no shard.
    """
    characters = sorted(set(text))
    ids = np.searchsorted(np.array([ord(c) for c in characters]), np.frombuffer(text.encode("utf-32-le"), "<u4"))
    cut = int(len(text) * TRAIN_SHARE)
    shards = [
        write_shard(folder / "train.bin", ids[:cut], "train", len(text[:cut].encode())),
        write_shard(folder / "validation.bin", ids[cut:], "validation", len(text[cut:].encode())),
    ]
    return shards, len(characters) + 1


def drawn(folder: Path, tokens: int, vocabulary: int, seed: int = 0) -> list[Shard]:
    """A train shard of ids drawn by Zipf's law from [1, vocabulary), in documents that end with the id 0.

    Lengths of documents are log-normal about a median of 400 tokens, as on the web; at least one.
    """
    generator = np.random.default_rng(seed)
    weights = 1 / np.arange(1, vocabulary)
    ids = np.searchsorted(np.cumsum(weights) / weights.sum(), generator.random(tokens)) + 1
    ends = np.cumsum(1 + generator.lognormal(np.log(400), 1.0, size=2 + tokens // 100).astype(np.int64))
    ids[ends[ends < tokens]] = 0
    return [write_shard(folder / "train.bin", np.minimum(ids, vocabulary - 1), "train")]


def write_shard(
    path: Path, ids: NDArray[np.int64], split: Literal["train", "validation"], text_bytes: int = 0
) -> Shard:
    """Write ids as uint16, which nanoGPT reads too, and describe the file."""
    content = ids.astype("<u2").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return Shard(str(path), split, len(ids), text_bytes=text_bytes, sha256=hashlib.sha256(content).hexdigest())
