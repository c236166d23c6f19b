"""How long the n-grams of each text are: the rule's n in words, translated for scripts written without spaces."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.decontamination.config import DecontaminateConfig


class Lengths(NamedTuple):
    """n by benchmark and by text."""

    benchmark_words: NDArray[np.int64]  # (benchmarks,) in words
    gram_words: NDArray[np.int64]  # (texts,) in words of the scan; 0: the text is too short to be checked


def lengths_of(
    config: DecontaminateConfig,
    benchmark: NDArray[np.int32],
    words: NDArray[np.int64],
    unspaced: NDArray[np.int64],
) -> Lengths:
    """n of each text, from its benchmark's number, its words and how many of these are letters of unspaced scripts.

    A text's length in words counts 1.6 such letters (`unspaced_characters_per_word`) as one; its n is the benchmark's n
    times its letters and words for each word. So n is 8 to 13 in English, 13 to 21 in Chinese, and between in a
    mixture. A text shorter than its n is one n-gram as a whole, unless it is too short to be checked.
    """
    length = (words - unspaced) + unspaced / config.unspaced_characters_per_word
    rule = config.gpt3 if config.rule == "gpt3" else config.strict
    count = int(benchmark.max(initial=-1)) + 1
    if config.rule == "gpt3":
        bounds = (config.gpt3.minimum_words, config.gpt3.maximum_words)
        of_benchmark = np.array(
            [
                np.clip(nearest_rank(length[benchmark == number], config.gpt3.length_percentile), *bounds)
                for number in range(count)
            ],
            np.int64,
        )
    else:
        of_benchmark = np.full(count, config.strict.words, np.int64)
    some = np.maximum(length, np.finfo(float).tiny)
    full = np.floor(of_benchmark[benchmark] * words / some + 0.5).astype(np.int64)
    checked = (length >= rule.minimum_item_words) & (words > 0)
    return Lengths(of_benchmark, np.where(checked, np.minimum(full, words), 0))


def nearest_rank(values: NDArray[np.float64], percentile: float) -> int:
    """The least value that at least `percentile` percent of the values do not exceed, in whole words."""
    rank = max(1, int(np.ceil(len(values) * percentile / 100)))
    return int(np.partition(values, rank - 1)[rank - 1])
