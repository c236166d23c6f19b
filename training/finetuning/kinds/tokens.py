"""A tag for each word: the first token of a word is tagged, the others follow it (BERT, Devlin et al. 2019, 5.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.finetuning import metrics
from training.finetuning.kinds.kind import IGNORED, Item, Kind, class_weights, place_of
from training.finetuning.network import Network
from training.finetuning.tables import Row


class Sentence(NamedTuple):
    """Words and their tags, by place."""

    words: tuple[str, ...]
    targets: tuple[int, ...]


class TokenClassification(Kind):
    """Tags of the words of a sentence; a sentence that is too long is cut into windows of whole words."""

    of_tokens = True
    _weights_C: np.ndarray[Any, Any] | None = None

    def learn(self, rows: Sequence[Row]) -> None:
        """Tags and their weights."""
        tags = [tag for row in rows for tag in self._cells(row)[1]]
        self.labels = self.task.labels or tuple(sorted(set(tags), key=lambda tag: (tag != "O", tag)))
        known = {label: place for place, label in enumerate(self.labels)}
        places = [known[tag] for tag in tags if tag in known]
        self._weights_C = class_weights(self.task, places, len(self.labels))

    @property
    def outputs(self) -> int:
        """A logit for each tag."""
        return len(self.labels)

    def examples(self, rows: Sequence[Row]) -> list[Sentence]:
        """Sentences."""
        found = []
        for row in rows:
            words, tags = self._cells(row)
            found.append(Sentence(tuple(words), tuple(place_of(tag, self.labels, row) for tag in tags)))
        return found

    def _cells(self, row: Row) -> tuple[list[str], list[str]]:
        columns = self.task.columns
        words, tags = row.value(columns.text), row.value(columns.label)
        if not (isinstance(words, list) and isinstance(tags, list) and len(words) == len(tags) and words):
            raise ValueError(
                f"{row.place}: {columns.text} and {columns.label} must be lists of the same length, at least one"
            )
        return [str(word) for word in words], [str(tag) for tag in tags]

    def items(self, examples: Sequence[Sentence], training: bool) -> list[Item]:
        """The words' tokens, one behind another; the target is a tag at the first token of each word."""
        flat = iter(self.reader.ids([self._spelled(one, place) for one in examples for place in range(len(one.words))]))
        found = []
        for place, one in enumerate(examples):
            found += self._windows(place, one, [next(flat) for _ in one.words])
        return found

    def _spelled(self, sentence: Sentence, place: int) -> str:
        """A word as it stands in running text: behind a space, but for the first and where scripts have none."""
        word, before = sentence.words[place], sentence.words[place - 1] if place else ""
        return word if not before or _unspaced(before[-1:]) or _unspaced(word[:1]) else f" {word}"

    def _windows(self, place: int, sentence: Sentence, words: list[metrics.Ints]) -> list[Item]:
        """Items of as many whole words as fit."""
        room = self.reader.max_length - self.reader.framing
        # A word without tokens still needs one that its tag is read from.
        words = [word[:room] if len(word) else np.array([self.reader.padding]) for word in words]
        found, begin = [], 0
        while begin < len(words):
            end, tokens = begin, 0
            while end < len(words) and tokens + len(words[end]) <= room:
                tokens, end = tokens + len(words[end]), end + 1
            encoded = self.reader.single(np.concatenate(words[begin:end]))
            lengths = [len(word) for word in words[begin:end]]
            firsts = len(self.reader.before) + np.cumsum([0, *lengths[:-1]])
            target = np.full(len(encoded.ids), IGNORED, dtype=np.int64)
            target[firsts] = sentence.targets[begin:end]
            found.append(Item(place, (encoded,), target, {"firsts": firsts}))
            begin = end
        return found

    def scores(self, network: Network, items: Sequence[Item]) -> Tensor:
        """(N, T, C)."""
        return network.of_tokens(self.task.name, [item.sequences[0] for item in items])

    def loss(self, scores: Tensor, items: Sequence[Item]) -> Tensor:
        """Cross-entropy of the tags."""
        targets_NT = np.full(scores.shape[:2], IGNORED, dtype=np.int64)
        for row, item in enumerate(items):
            targets_NT[row, : len(item.target)] = item.target
        targets = torch.from_numpy(targets_NT).to(scores.device).flatten()
        weights_C = None if self._weights_C is None else torch.from_numpy(self._weights_C).to(scores.device)
        return F.cross_entropy(
            scores.flatten(0, 1),
            targets,
            weights_C,
            ignore_index=IGNORED,
            reduction="sum",
            label_smoothing=self.label_smoothing,
        )

    def weight(self, items: Sequence[Item]) -> float:
        """The summed weights of the words' tags."""
        tags = np.concatenate([item.target[item.target != IGNORED] for item in items])
        return float(len(tags) if self._weights_C is None else self._weights_C[tags].sum()) or 1.0

    def outcomes(self, scores: Tensor, items: Sequence[Item]) -> list[Any]:
        """The likeliest tag of each word."""
        places_NT = scores.argmax(-1).cpu().numpy()
        return [row[item.facts["firsts"]] for row, item in zip(places_NT, items, strict=True)]

    def predictions(self, examples: Sequence[Any], items: Sequence[Item], outcomes: Sequence[Any]) -> list[Any]:
        """The tags of each sentence."""
        tags: list[list[str]] = [[] for _ in examples]
        for item, one in zip(items, outcomes, strict=True):
            tags[item.example] += [self.labels[place] for place in one]
        return [{"tags": row} for row in tags]

    def blank(self, row: Row) -> list[str]:
        """As many tags as words."""
        words = row.value(self.task.columns.text)
        return [self.labels[0]] * (len(words) if isinstance(words, list) else 0)

    def metrics(self, examples: Sequence[Sentence], predictions: Sequence[Any]) -> dict[str, float]:
        """entity_f1, entity_precision, entity_recall, accuracy."""
        right = [[self.labels[place] for place in example.targets] for example in examples]
        return metrics.entity_scores([one["tags"] for one in predictions], right)

    def baseline(self, training: Sequence[Sentence], examples: Sequence[Sentence]) -> dict[str, float]:
        """Those of the tag that each word has most often in training, `O` or the first one for others."""
        counts: dict[str, dict[int, int]] = {}
        for example in training:
            for word, tag in zip(example.words, example.targets, strict=True):
                mine = counts.setdefault(word, {})
                mine[tag] = mine.get(tag, 0) + 1
        most = {word: max(sorted(tags), key=tags.__getitem__) for word, tags in counts.items()}
        other = self.labels.index("O") if "O" in self.labels else 0
        return self.metrics(
            examples, [{"tags": [self.labels[most.get(word, other)] for word in one.words]} for one in examples]
        )


def _unspaced(character: str) -> bool:
    """Whether a character is of a script that puts no spaces between words: Thai and its kin, Chinese, Japanese."""
    point = ord(character) if character else 0
    return 0x0E00 <= point < 0x1000 or 0x2E80 <= point < 0xAC00 or 0xF900 <= point < 0xFB00 or point >= 0x20000
