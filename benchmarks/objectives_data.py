"""A corpus with sentences and documents, as token shards for our trainer and as examples for transformers' Trainer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.training_data import write_shard
from training.config import Shard, SpecialTokens
from training.rows import SENTENCE, WORD

PADDING, END_OF_TEXT, FIRST, SEPARATOR, MASK = range(5)
SPECIAL_TOKENS = SpecialTokens(padding=PADDING, mask=MASK, first=FIRST, separator=SEPARATOR)
_ORDINARY = 5  # the first id of the text

Ids = NDArray[np.int64]
Document = list[Ids]
"""Its sentences."""
Example = dict[str, Any]
"""Lists `input_ids`, `token_type_ids`, `attention_mask` and `special_tokens_mask`; for pairs `next_sentence_label`."""


@dataclass(frozen=True)
class Corpus:
    """Documents one behind another, each with the end-of-text id behind it; and their marks."""

    ids: Ids
    marks: NDArray[np.uint8]

    def shard(self, folder: Path) -> Shard:
        """Write it as a train shard with a file of marks."""
        written = write_shard(folder / "train.bin", self.ids, "train")
        path, content = folder / "train.marks", self.marks.tobytes()
        path.write_bytes(content)
        marks = {"marks": str(path), "marks_sha256": hashlib.sha256(content).hexdigest()}
        return Shard(**{**vars(written), **marks})

    @property
    def documents(self) -> list[Document]:
        """The sentences of each document that is not empty, without the end-of-text ids."""
        found = []
        for part, marks in zip(*(np.split(x, self._ends + 1) for x in (self.ids, self.marks)), strict=True):
            text = part[part != END_OF_TEXT]
            if len(text):
                found.append(np.split(text, np.flatnonzero(marks[: len(text)] & SENTENCE)[1:]))
        return found

    @property
    def _ends(self) -> NDArray[np.int64]:
        return np.flatnonzero(self.ids == END_OF_TEXT)


def drawn_corpus(tokens: int, vocabulary: int, median_document: float, seed: int = 0) -> Corpus:
    """Ids drawn by Zipf's law, in sentences and documents of log-normal lengths.

    Sentences have a median of 20 tokens and a spread (of the logarithm) of 0.6, documents a spread of 1, as on the web.
    Every token begins a word.
    """
    generator = np.random.default_rng(seed)
    weights = np.cumsum(1 / np.arange(1, vocabulary - _ORDINARY + 1))
    ids = np.searchsorted(weights / weights[-1], generator.random(tokens)) + _ORDINARY
    marks = np.full(tokens, WORD, dtype=np.uint8)
    ends = _cuts(generator, tokens, median_document, 1.0)
    starts = np.concatenate([[0], _cuts(generator, tokens, 20, 0.6), ends + 1])
    marks[starts[starts < tokens]] |= SENTENCE
    ids[ends], marks[ends] = END_OF_TEXT, 0
    return Corpus(np.minimum(ids, vocabulary - 1), marks)


def _cuts(generator: np.random.Generator, tokens: int, median: float, spread: float) -> NDArray[np.int64]:
    lengths = 3 + generator.lognormal(np.log(median), spread, size=10 + 3 * int(tokens / median)).astype(np.int64)
    cuts = np.cumsum(lengths)
    return cuts[cuts < tokens]


def texts(documents: list[Document], length: int) -> Iterator[Example]:
    """[first] text [separator] of at most `length` tokens, from one document each (RoBERTa's DOC-SENTENCES)."""
    for document in documents:
        text = np.concatenate(document)
        for begin in range(0, len(text), length - 2):
            yield _example([text[begin : begin + length - 2]])


def pairs(documents: list[Document], length: int, short_share: float = 0.1, seed: int = 0) -> Iterator[Example]:
    """[first] A [separator] B [separator] for next sentence prediction, one pair an example as in BERT's pipeline.

    Devlin et al. 2019, section A.2, and the published code: sentences of one document until the target length is
    reached, parted at random; in half of the cases B is drawn from another document (label 1), and what it displaces
    begins the next pair; what is too long is cut at either end of the longer part.
    """
    generator = np.random.default_rng(seed)
    most = length - 3
    for number, document in enumerate(documents):
        at = 0
        while at < len(document):
            target = most if generator.random() >= short_share else int(generator.integers(2, most + 1))
            taken = _reaching(document, at, target)
            cut = 1 if taken == 1 else int(generator.integers(1, taken))
            a = np.concatenate(document[at : at + cut])
            is_random = len(documents) > 1 and (taken == 1 or generator.random() < 0.5)
            if is_random:
                other = documents[(number + int(generator.integers(1, len(documents)))) % len(documents)]
                begin = int(generator.integers(len(other)))
                b = np.concatenate(other[begin : begin + _reaching(other, begin, target - len(a))])
                at += cut
            else:
                b = np.concatenate([*document[at + cut : at + taken], np.zeros(0, dtype=np.int64)])
                at += taken
            yield {**_example(_shortened(a, b, most, generator)), "next_sentence_label": int(is_random)}


def _reaching(document: Document, begin: int, target: int) -> int:
    """Sentences from `begin` on that hold at least `target` tokens, or all that there are."""
    held = 0
    for taken, sentence in enumerate(document[begin:], 1):
        held += len(sentence)
        if held >= target:
            return taken
    return len(document) - begin


def _shortened(a: Ids, b: Ids, most: int, generator: np.random.Generator) -> list[Ids]:
    parts = [a, b]
    while (over := len(parts[0]) + len(parts[1]) - most) > 0:
        longer = int(len(parts[1]) >= len(parts[0]))
        off = min(over, max(1, abs(len(parts[0]) - len(parts[1]))))
        front = int(generator.binomial(off, 0.5))
        parts[longer] = parts[longer][front : len(parts[longer]) - (off - front)]
    return parts


def _example(parts: list[Ids]) -> Example:
    ids, types, special = [FIRST], [0], [1]
    for kind, part in enumerate(parts):
        ids += [*part.tolist(), SEPARATOR]
        types += [kind] * (len(part) + 1)
        special += [*[0] * len(part), 1]
    mask = [1] * len(ids)
    return {"input_ids": ids, "token_type_ids": types, "attention_mask": mask, "special_tokens_mask": special}
