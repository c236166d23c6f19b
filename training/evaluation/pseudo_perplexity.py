"""Pseudo-perplexity of held-out sentences (Salazar et al. 2020, section 2, equation 2).

`bits_per_byte` divides by the bytes that a shard's tokens stand for on average, so that it compares across tokenizers.
It is not that of a model that reads from left to right: a token is told from what follows it, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.config import Shard
from training.evaluation.stretches import HeldOutSentence, text_bytes_per_token

Scorer = Callable[[Sequence[NDArray[np.int64]]], Sequence[NDArray[np.floating]]]


@dataclass(frozen=True)
class _Sum:
    sentences: int = 0
    tokens: int = 0
    nats: float = 0.0
    text_bytes: float | None = 0.0

    def __add__(self, other: _Sum) -> _Sum:
        known = self.text_bytes is not None and other.text_bytes is not None
        text_bytes = self.text_bytes + other.text_bytes if known else None  # type: ignore[operator]
        return _Sum(self.sentences + other.sentences, self.tokens + other.tokens, self.nats + other.nats, text_bytes)

    def facts(self) -> dict[str, float | int | None]:
        loss = self.nats / self.tokens
        return {
            "loss": loss,
            "perplexity": math.exp(min(loss, 700.0)),
            "bits_per_byte": self.nats / math.log(2) / self.text_bytes if self.text_bytes else None,
            "tokens": self.tokens,
            "sentences": self.sentences,
            "text_bytes": None if self.text_bytes is None else round(self.text_bytes),
        }


def score_sentences(shards: Sequence[Shard], sentences: Sequence[HeldOutSentence], scorer: Scorer) -> dict[str, Any]:
    """{"overall", "sources", "languages"} of loss (nats a token), perplexity, bits_per_byte and their counts.

    Raises ValueError where a log-probability is not finite.
    """
    overall, groups = _Sum(), {"sources": dict[str, _Sum](), "languages": dict[str, _Sum]()}
    for sentence, logs in zip(sentences, scorer([sentence.tokens for sentence in sentences]), strict=True):
        if not np.isfinite(logs).all():
            raise ValueError("the model gives some tokens no finite probability; its training has diverged")
        shard = shards[sentence.shard]
        size, tokens = text_bytes_per_token(shard), len(sentence.tokens)
        one = _Sum(1, tokens, -float(logs.astype(np.float64).sum()), None if size is None else size * tokens)
        overall += one
        for group, label in (("sources", shard.source), ("languages", shard.language)):
            groups[group][label] = groups[group].get(label, _Sum()) + one
    found = {group: {label: sums[label].facts() for label in sorted(sums)} for group, sums in groups.items()}
    return {"overall": overall.facts(), **found}
