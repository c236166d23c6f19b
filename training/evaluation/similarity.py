"""Semantic textual similarity: do the vectors of two sentences lie as near as people found their meanings?

Spearman's rank correlation of cosine similarity and human score, over all pairs of a file at once (Gao et al. 2021,
appendix B: "all"); alignment of the pairs that people found alike, and uniformity of all sentences (Wang & Isola 2020,
section 4.1; pairs and sentences as in Gao et al. 2021, section 5). N pairs, D width.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.evaluation.lines import read_lines

Floats = NDArray[np.float64]
Encode = Callable[[list[str]], NDArray[np.floating]]
"""Texts -> a vector each, (N, D)."""

ALIKE = 4.0
"""Least score, of 0 to 5, of the pairs whose alignment is measured (Gao et al. 2021, section 5)."""
_MOST_FOR_UNIFORMITY = 4096


class ScoredPair(NamedTuple):
    """Two sentences and what people found of their similarity."""

    first: str
    second: str
    score: float


def read_scored_pairs(path: str | Path) -> list[ScoredPair]:
    """Pairs of a local file, plain or .gz: JSON Lines of {sentence1, sentence2, score}, or the table of STS-B.

    The latter has tabs between genre, file, year, number, score, sentence, sentence, and maybe more. Raises ValueError
    naming the file and the line of a broken one.
    """
    path = Path(path)
    parse = _of_json if ".jsonl" in path.suffixes else _of_table
    pairs = []
    for number, line in read_lines(path):
        try:
            pairs.append(parse(line))
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise ValueError(f"{path}: line {number}: no pair of sentences with a score: {error}") from None
    if len(pairs) < 2:
        raise ValueError(f"{path}: holds {len(pairs)} pairs; a correlation needs two")
    return pairs


def _of_json(line: str) -> ScoredPair:
    row = json.loads(line)
    return ScoredPair(str(row["sentence1"]), str(row["sentence2"]), float(row["score"]))


def _of_table(line: str) -> ScoredPair:
    cells = line.rstrip("\r\n").split("\t")
    return ScoredPair(cells[5], cells[6], float(cells[4]))


def judge_similarity(pairs: Sequence[ScoredPair], encode: Encode) -> dict[str, float | int | None]:
    """spearman, alignment (None without pairs of a score of 4 or more), uniformity, and the number of pairs."""
    sentences = list(dict.fromkeys(sentence for pair in pairs for sentence in pair[:2]))
    vectors_ND = unit(np.asarray(encode(sentences), dtype=np.float64))
    row = {sentence: index for index, sentence in enumerate(sentences)}
    first_ND = vectors_ND[[row[pair.first] for pair in pairs]]
    second_ND = vectors_ND[[row[pair.second] for pair in pairs]]
    scores_N = np.array([pair.score for pair in pairs])
    alike_N = scores_N >= ALIKE
    return {
        "spearman": spearman((first_ND * second_ND).sum(1), scores_N),
        "alignment": alignment(first_ND[alike_N], second_ND[alike_N]) if alike_N.any() else None,
        "uniformity": uniformity(vectors_ND[:_MOST_FOR_UNIFORMITY]),
        "pairs": len(pairs),
    }


def unit(vectors_ND: Floats) -> Floats:
    """Vectors of length 1; one of length 0 stays as it is."""
    lengths_N1 = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    return vectors_ND / np.where(lengths_N1 > 0, lengths_N1, 1.0)


def alignment(first_ND: Floats, second_ND: Floats) -> float:
    """Mean squared distance of the unit vectors of pairs (Wang & Isola 2020, section 4.1.1, with exponent 2)."""
    return float(np.square(first_ND - second_ND).sum(1).mean())


def uniformity(vectors_ND: Floats) -> float:
    """Log of the mean of exp(-2 squared distance) over all pairs of different vectors (the same, section 4.1.2)."""
    count = len(vectors_ND)
    if count < 2:
        return 0.0
    distances_NN = np.maximum(2.0 - 2.0 * (vectors_ND @ vectors_ND.T), 0.0)
    kernel = np.exp(-2.0 * distances_NN)
    return float(np.log((kernel.sum() - np.trace(kernel)) / (count * (count - 1))))


def spearman(first_N: Floats, second_N: Floats) -> float:
    """Rank correlation, equal values sharing the mean of their ranks; 0 where all values of a side are equal."""
    a, b = ranks(first_N), ranks(second_N)
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale else 0.0


def ranks(values_N: Floats) -> Floats:
    """Ranks from 1; equal values get the mean of theirs."""
    _, inverse, counts = np.unique(values_N, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    means: Floats = ends - (counts - 1) / 2.0
    return means[inverse]
