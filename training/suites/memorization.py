"""How much of its training text a model writes on word for word, beside text that it was not trained on.

A stretch is given as far as its last `prefix_tokens`, and the model writes greedily (Carlini et al. 2023, section 3).
Greedy text agrees with the stretch up to the first token that is not the likeliest after all those before it, so one
pass over the stretch tells how far; nothing has to be written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.config import Shard
from training.evaluation.judged import Judged
from training.evaluation.perplexity import read_shard
from training.suites.config import MemorizationConfig
from training.suites.likelihood import Likelihood, Request, Told

_TRIES = 8
"""Stretches that are looked at for each one that is wanted; those that a document ends in are left out."""


class Memorized(NamedTuple):
    """What was found for one split and one length of what is given."""

    split: str
    prefix_tokens: int
    samples: int
    exact: float
    """Share of the stretches whose whole continuation the model writes."""
    matched: float
    """Mean number of tokens that agree, from the first."""
    longest: int


def measure_memorization(
    config: MemorizationConfig,
    shards: Sequence[Shard],
    judged: Judged,
    likelihood: Likelihood,
    seed: int,
    tell: Told = lambda done, of: None,
) -> list[Memorized]:
    """The probe on train shards and, beside them, on validation shards, which tell how much is mere predictability.

    Lengths that do not fit into the model's context are left out. Raises ValueError where the model does not read from
    left to right, where there is no train shard, or none of the lengths fits.
    """
    if not likelihood.reads_forward:
        raise ValueError("memorization: only a model that reads from left to right writes on")
    room = judged.context_length - config.continuation_tokens
    fitting = [tokens for tokens in config.prefix_tokens if tokens <= room]
    if not fitting:
        raise ValueError(
            f"memorization: prefix_tokens and continuation_tokens must fit into the context of {judged.context_length}"
        )
    if not any(shard.split == "train" and shard.tokens for shard in shards):
        raise ValueError("memorization: there is no train shard; the text that the model was trained on must be there")
    found = []
    for split in ("train", "validation"):
        mine = [shard for shard in shards if shard.split == split and shard.tokens]
        windows = sample(mine, max(fitting) + config.continuation_tokens, config.samples, judged.end_of_text, seed)
        if split == "train" and not len(windows):
            longest = max(fitting) + config.continuation_tokens
            raise ValueError(
                f"memorization: no document of the train shards was found to hold {longest} tokens in a row"
            )
        for tokens in fitting if len(windows) else ():
            given, wanted = windows[:, -config.continuation_tokens - tokens :], config.continuation_tokens
            requests = [Request(tuple(row[:-wanted]), tuple(row[-wanted:])) for row in given.tolist()]
            answers = likelihood.answers(requests, f"memorization ({split})", tell)
            matched = np.array([answer.matched for answer in answers])
            exact = float((matched == wanted).mean())
            found.append(Memorized(split, tokens, len(matched), exact, float(matched.mean()), int(matched.max())))
    return found


def sample(shards: Sequence[Shard], length: int, count: int, end_of_text: int, seed: int) -> NDArray[np.int64]:
    """Up to `count` stretches (count, length) int64 of text within documents, drawn evenly over all tokens."""
    sizes = np.array([max(0, shard.tokens - length + 1) for shard in shards], dtype=np.int64)
    total = int(sizes.sum())
    found: list[Any] = []
    if total:
        arrays = [read_shard(shard) for shard in shards]
        drawn = np.random.default_rng(seed).choice(total, min(total, _TRIES * count), replace=False)
        begins = np.cumsum(sizes) - sizes
        for place in drawn.tolist():
            index = int(np.searchsorted(begins, place, side="right")) - 1
            window = np.asarray(arrays[index][place - begins[index] :][:length])
            if end_of_text not in window:
                found.append(window.astype(np.int64))
            if len(found) == count:
                break
    return np.array(found, dtype=np.int64).reshape(len(found), length)


def flat(found: Sequence[Memorized]) -> dict[str, float]:
    """The numbers under flat names."""
    numbers: dict[str, float] = {}
    for one in found:
        at = f"memorization/{one.split}"
        numbers[f"{at}/exact_{one.prefix_tokens}"] = one.exact
        numbers[f"{at}/matched_tokens_{one.prefix_tokens}"] = one.matched
        numbers[f"{at}/longest_match_{one.prefix_tokens}"] = float(one.longest)
    return numbers
