"""Linear probes: what a logistic regression reads from a model's frozen vectors, without any fine-tuning.

A task is a JSON Lines file of {text, label}. A fifth of its texts, chosen by a hash of each, is the test set, another
tenth chooses the strength of the regularisation. Beside it stand the most frequent class of the training texts, and the
same regression on the counts of their characters. N texts, D width, C classes.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from training.evaluation.lines import read_rows

TEST, CHOICE = range(2), range(2, 3)
"""Tenths of the texts, by hash."""
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
"""Weights of half the squared norm that are tried, for inputs of unit variance."""
CHARACTERS = 1000
"""Most characters that the baseline counts."""

Embed = Callable[[Sequence[str]], NDArray[np.floating]]


class Example(NamedTuple):
    """A text and its class."""

    text: str
    label: str


def read_examples(path: str | Path, limit: int | None = None) -> list[Example]:
    """Examples of a local file, plain or .gz, each text once; `limit` keeps those of the smallest hashes.

    Raises ValueError naming the file and the line of a broken one, and a file of fewer than two classes.
    """
    found = {row["text"]: str(row["label"]) for _, row in read_rows(path, text=str, label=(str, int))}
    examples = [Example(text, label) for text, label in found.items()]
    examples.sort(key=lambda example: _hash(example.text))
    examples = examples[:limit]
    for part in ("training", "test"):
        chosen = _training(examples) if part == "training" else _tenths(examples, TEST)
        if len({example.label for example in chosen}) < (2 if part == "training" else 1):
            raise ValueError(f"{path}: its {part} texts ({len(chosen)}) hold too few classes for a probe")
    return examples


def probe(examples: Sequence[Example], encoders: dict[str, Embed]) -> dict[str, Any]:
    """Test accuracy of a regression on each encoder's vectors, and of the baselines.

    Returns {"accuracy": {encoder: facts}, "baselines": {"majority", "characters": facts}, "classes", "train", "test"};
    facts: accuracy, standard_error.
    """
    train, test = _training(examples), _tenths(examples, TEST)
    labels = sorted({example.label for example in examples})
    majority = Counter(example.label for example in train).most_common(1)[0][0]
    alphabet = Counter(character for example in train for character in set(example.text)).most_common(CHARACTERS)
    places = {character: index for index, (character, _) in enumerate(alphabet)}
    return {
        "accuracy": {name: _accuracy(examples, labels, encode) for name, encode in encoders.items()},
        "baselines": {
            "majority": _proportion(sum(example.label == majority for example in test), len(test)),
            "characters": _accuracy(examples, labels, lambda texts: character_counts(texts, places)),
        },
        "classes": len(labels),
        "train": len(train),
        "test": len(test),
    }


def character_counts(texts: Sequence[str], places: dict[str, int]) -> NDArray[np.float32]:
    """log(1 + count) of the known characters of each text, (N, characters)."""
    counts = np.zeros((len(texts), len(places)), dtype=np.float32)
    for row, text in enumerate(texts):
        for character, count in Counter(text).items():
            if character in places:
                counts[row, places[character]] = count
    return np.log1p(counts)


def logistic_regression(
    features_ND: Tensor, classes_N: Tensor, classes: int, strength: float
) -> Callable[[Tensor], Tensor]:
    """Fit by L-BFGS in float64: mean cross-entropy plus strength / 2 times the squared norm of the weights.

    Returns what gives the logits (N, C) of features (N, D). The biases are not regularised.
    """
    features_ND = features_ND.double()
    weight_CD = torch.zeros(classes, features_ND.shape[1], dtype=torch.float64, requires_grad=True)
    bias_C = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight_CD, bias_C], max_iter=100, tolerance_grad=1e-6, tolerance_change=1e-10, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(features_ND, weight_CD, bias_C), classes_N)
        loss = loss + strength / 2 * weight_CD.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    weight, bias = weight_CD.detach(), bias_C.detach()
    return lambda features: F.linear(features.double(), weight, bias)


def _accuracy(examples: Sequence[Example], labels: list[str], encode: Embed) -> dict[str, float]:
    """Test accuracy at the strength that is best on the choosing texts, fitted on all but the test's."""
    fitted, chosen = _tenths(examples, range(CHOICE.stop, 10)), _tenths(examples, CHOICE)
    features = {
        part: torch.from_numpy(np.asarray(encode([e.text for e in part_examples]), dtype=np.float64))
        for part, part_examples in (("fit", fitted), ("choose", chosen), ("test", _tenths(examples, TEST)))
        if part_examples
    }
    mean, deviation = features["fit"].mean(0), features["fit"].std(0, correction=0)
    features = {part: (values - mean) / torch.where(deviation > 0, deviation, 1.0) for part, values in features.items()}
    classes = {
        part: torch.tensor([labels.index(e.label) for e in part_examples])
        for part, part_examples in (("fit", fitted), ("choose", chosen), ("test", _tenths(examples, TEST)))
    }
    best = STRENGTHS[-1]
    if "choose" in features:
        rights = []
        for strength in STRENGTHS:
            logits = logistic_regression(features["fit"], classes["fit"], len(labels), strength)
            rights.append(int((logits(features["choose"]).argmax(1) == classes["choose"]).sum()))
        best = STRENGTHS[max(range(len(STRENGTHS)), key=lambda index: (rights[index], STRENGTHS[index]))]
        features["fit"] = torch.cat([features["fit"], features["choose"]])
        classes["fit"] = torch.cat([classes["fit"], classes["choose"]])
    logits = logistic_regression(features["fit"], classes["fit"], len(labels), best)
    right = int((logits(features["test"]).argmax(1) == classes["test"]).sum())
    return _proportion(right, len(classes["test"]))


def _proportion(right: int, total: int) -> dict[str, float]:
    share = right / total
    return {"accuracy": share, "standard_error": math.sqrt(share * (1 - share) / total)}


def _training(examples: Sequence[Example]) -> list[Example]:
    return _tenths(examples, range(TEST.stop, 10))


def _tenths(examples: Sequence[Example], tenths: range) -> list[Example]:
    return [example for example in examples if _hash(example.text) % 10 in tenths]


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
