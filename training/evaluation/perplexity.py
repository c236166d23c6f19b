"""Held-out loss, perplexity and bits per byte of token shards: overall, by source and by language.

A shard is scored as one stream: documents follow each other as they do in a training window, the first of them after an
end-of-text id. `loss` and `perplexity` are those of all tokens, end-of-text ids included, since the model is trained on
them. `bits_per_byte` is what the text costs: the bits of the end-of-text ids stay out, as they stand for no byte (so
does lm-evaluation-harness, which never scores the end, and so does nanochat), which makes models with different
tokenizers comparable.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.config import Shard

Scorer = Callable[[Sequence[NDArray[np.integer]]], Sequence[NDArray[np.floating]]]
"""Token ids of shards -> natural log-probability of each token."""


@dataclass(frozen=True)
class Score:
    """Sums over scored tokens; they add up over shards. Losses are in nats, float64."""

    tokens: int = 0
    documents: int = 0
    text_bytes: int = 0
    nats: float = 0.0
    end_of_text_nats: float = 0.0
    """The share of `nats` that lies on end-of-text ids."""

    def __add__(self, other: Score) -> Score:
        return Score(
            self.tokens + other.tokens,
            self.documents + other.documents,
            self.text_bytes + other.text_bytes,
            self.nats + other.nats,
            self.end_of_text_nats + other.end_of_text_nats,
        )

    def facts(self) -> dict[str, float | int | None]:
        """loss (nats a token), perplexity, bits_per_byte (None where no bytes are known) and the counts behind them."""
        loss = self.nats / self.tokens if self.tokens else None
        text_bits = (self.nats - self.end_of_text_nats) / math.log(2)
        return {
            "loss": loss,
            "perplexity": None if loss is None else math.exp(min(loss, 700.0)),
            "bits_per_byte": text_bits / self.text_bytes if self.text_bytes else None,
            "tokens": self.tokens,
            "documents": self.documents,
            "text_bytes": self.text_bytes,
        }


def score_shards(shards: Sequence[Shard], end_of_text: int, scorer: Scorer) -> dict[str, Any]:
    """Score every token of the shards once.

    Returns {"overall": facts, "sources": {source: facts}, "languages": {language: facts}} with `Score.facts`, names in
    order. Raises ValueError for a shard that does not match its description.
    """
    ids = [read_shard(shard) for shard in shards]
    for shard, tokens in zip(shards, ids, strict=True):
        _check_documents(shard, tokens, end_of_text)
    logs = scorer(ids)
    overall = Score()
    sources: dict[str, Score] = {}
    languages: dict[str, Score] = {}
    for shard, tokens, log in zip(shards, ids, logs, strict=True):
        score = score_tokens(shard, tokens, log, end_of_text)
        overall += score
        sources[shard.source] = sources.get(shard.source, Score()) + score
        languages[shard.language] = languages.get(shard.language, Score()) + score
    return {
        "overall": overall.facts(),
        "sources": {name: sources[name].facts() for name in sorted(sources)},
        "languages": {name: languages[name].facts() for name in sorted(languages)},
    }


def score_tokens(
    shard: Shard, tokens: NDArray[np.integer], log_probabilities: NDArray[np.floating], end_of_text: int
) -> Score:
    """Sum the log-probabilities (T,) of one shard's tokens (T,) in float64; raises ValueError if one is not finite."""
    nats = -log_probabilities.astype(np.float64)
    if not np.isfinite(nats).all():
        raise ValueError(f"{shard.path}: the model gives some tokens no finite probability; its training has diverged")
    return Score(
        tokens=len(tokens),
        documents=shard.documents,
        text_bytes=shard.text_bytes,
        nats=float(nats.sum()),
        end_of_text_nats=float(nats[np.asarray(tokens) == end_of_text].sum()),
    )


def read_shard(shard: Shard) -> NDArray[np.unsignedinteger]:
    """Token ids of a shard (T,), memory-mapped; raises ValueError where the file is missing or of another length."""
    path = Path(shard.path)
    dtype = np.dtype(shard.dtype).newbyteorder("<")
    if not path.is_file():
        raise ValueError(f"{path}: token shard is missing; run the tokenize stage again")
    found = path.stat().st_size
    if found != shard.tokens * dtype.itemsize:
        raise ValueError(
            f"{path}: {found} bytes do not hold the {shard.tokens} {shard.dtype} tokens that its description names; "
            "run the tokenize stage again"
        )
    return np.memmap(path, dtype=dtype, mode="r") if found else np.empty(0, dtype)


def _check_documents(shard: Shard, tokens: NDArray[np.integer], end_of_text: int) -> None:
    ends = int(np.count_nonzero(np.asarray(tokens) == end_of_text))
    if shard.documents and ends != shard.documents:
        raise ValueError(
            f"{shard.path}: holds {ends} end-of-text ids ({end_of_text}) for {shard.documents} documents; "
            "is end_of_text the id of the tokenizer that made the shard?"
        )
