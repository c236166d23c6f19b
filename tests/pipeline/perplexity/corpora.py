"""Texts to train and score on, made by a seeded grammar; the words are those that the scan gives back."""

from __future__ import annotations

import random

import pyarrow as pa

from pipeline.perplexity.model import NgramModel
from pipeline.text.scan import word_hashes

SUBJECTS = ("the old miller", "a young engineer", "the river", "my neighbour", "every wheel")
VERBS = ("turns", "watches", "repairs", "follows", "forgets")
OBJECTS = ("the slow water", "an iron gate", "the narrow channel", "a wooden bridge", "its own shadow")
ENDINGS = ("in the morning", "before winter comes", "near the town", "without a word", "once again")


def prose(seed: int, sentences: int) -> str:
    """Sentences of a small grammar, as lines of several."""
    chosen = random.Random(seed)
    parts = (SUBJECTS, VERBS, OBJECTS, ENDINGS)
    made = [" ".join(chosen.choice(part) for part in parts).capitalize() + "." for _ in range(sentences)]
    return "\n".join(" ".join(made[at : at + 3]) for at in range(0, len(made), 3))


def shuffled(text: str, seed: int) -> str:
    words = text.split()
    random.Random(seed).shuffle(words)
    return " ".join(words)


def train(texts: list[str], **settings) -> NgramModel:
    return NgramModel.train([word_hashes(pa.array(texts, pa.large_string()))], **settings)
