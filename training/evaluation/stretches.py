"""Sentences of the held-out text: some of each shard, spread evenly over it, the same in every evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.config import Shard
from training.evaluation.perplexity import read_shard
from training.loader import spread
from training.rows import SENTENCE, WORD

LONGEST = 64
"""Most tokens of a stretch."""
_SHORTEST = 4


class HeldOutSentence(NamedTuple):
    """Tokens of a sentence, and which of them begin a word."""

    shard: int
    tokens: NDArray[np.int64]
    words: NDArray[np.bool_]


def held_out_sentences(
    shards: Sequence[Shard], end_of_text: int, count: int, longest: int = LONGEST
) -> list[HeldOutSentence]:
    """About `count` sentences of 4 to `longest` tokens; each shard gives its share by size, and one at least.

    A sentence is what the corpus' marks say, cut at `longest`; without marks a document, cut likewise.
    """
    shares = spread(np.array([shard.tokens for shard in shards], dtype=np.int64), count)
    return [
        sentence
        for index, (shard, share) in enumerate(zip(shards, shares.tolist(), strict=True))
        for sentence in _of_shard(index, shard, end_of_text, share, longest)
    ]


def text_bytes_per_token(shard: Shard) -> float | None:
    """UTF-8 bytes of text behind a token that is no end-of-text id; None where they are not known."""
    tokens = shard.tokens - shard.documents
    return shard.text_bytes / tokens if shard.text_bytes and tokens > 0 else None


def _of_shard(index: int, shard: Shard, end_of_text: int, count: int, longest: int) -> list[HeldOutSentence]:
    tokens = np.asarray(read_shard(shard))
    marks = _marks(shard)
    ends = np.flatnonzero(tokens == end_of_text)
    begins = np.append(0, ends + 1)
    if marks is not None:
        begins = np.union1d(begins, np.flatnonzero(marks & SENTENCE))
    begins = begins[begins < len(tokens)]
    stops = np.append(begins[1:], len(tokens))
    # The end-of-text id behind a sentence is no part of it.
    stops = stops - (tokens[stops - 1] == end_of_text)
    long_enough = np.flatnonzero(stops - begins >= min(_SHORTEST, longest))
    taken = min(count, len(long_enough))
    chosen = long_enough[(2 * np.arange(taken) + 1) * len(long_enough) // max(1, 2 * taken)]
    found = []
    for number in chosen:
        part = slice(int(begins[number]), int(min(stops[number], begins[number] + longest)))
        words = np.ones(part.stop - part.start, dtype=bool) if marks is None else (marks[part] & WORD) > 0
        found.append(HeldOutSentence(index, tokens[part].astype(np.int64), words))
    return found


def _marks(shard: Shard) -> NDArray[np.uint8] | None:
    if not shard.marks:
        return None
    path = Path(shard.marks)
    found = path.stat().st_size if path.is_file() else -1
    if found != shard.tokens:
        raise ValueError(
            f"marks {path}: not those of the {shard.tokens} tokens of {shard.path}; run the stage marks again"
        )
    return np.memmap(path, dtype=np.uint8, mode="r")
