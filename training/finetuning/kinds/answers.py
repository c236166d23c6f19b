"""The stretch of a passage that answers a question: scores for its first and its last token (BERT, section 4.2).

A long passage is read in windows that share `stride` tokens; what lies outside of a window is answered there by its
first token, as is a question without an answer (section 4.3). Shape suffixes: N items, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.finetuning import metrics
from training.finetuning.config import Columns
from training.finetuning.kinds.kind import Item, Kind
from training.finetuning.network import Network
from training.finetuning.sequences import Ids
from training.finetuning.tables import Row

MAX_QUESTION = 64
"""Most tokens of a question (BERT's published code)."""
_SQUAD = Columns(text="question", second="context", label="answers")


class Span(NamedTuple):
    """A stretch of characters of a passage, its end exclusive."""

    begin: int
    end: int


class Question(NamedTuple):
    """A question, its passage, and the stretches that answer it: none where nothing does."""

    question: str
    context: str
    answers: tuple[Span, ...]

    @property
    def texts(self) -> list[str]:
        """The answers."""
        return [self.context[one.begin : one.end] for one in self.answers]


class Best(NamedTuple):
    """What one window finds: its best stretch, and how well nothing answers."""

    score: float
    begin: int
    end: int
    nothing: float


class QuestionAnswering(Kind):
    """Extractive question answering; `none` is an answer where some training question has no other."""

    of_tokens = True
    allows_none = False

    @property
    def columns(self) -> Columns:
        """Those of SQuAD's own form are known."""
        return _SQUAD if self.task.format == "squad" else self.task.columns

    def learn(self, rows: Sequence[Row]) -> None:
        """Whether there are questions without answers."""
        self.allows_none = any(not self._answers(row) for row in rows)

    @property
    def outputs(self) -> int:
        """Scores of a first and of a last token."""
        return 2

    def examples(self, rows: Sequence[Row]) -> list[Question]:
        """Questions."""
        return [
            Question(row.text(self.columns.text), row.text(self.columns.second), self._answers(row)) for row in rows
        ]

    def _answers(self, row: Row) -> tuple[Span, ...]:
        """Of a list of {text, answer_start}, or of both as lists; raises ValueError where one is not in the passage."""
        value, context = row.value(self.columns.label), row.text(self.columns.second)
        try:
            if isinstance(value, dict):
                value = [
                    {"text": text, "answer_start": begin}
                    for text, begin in zip(value["text"], value["answer_start"], strict=True)
                ]
            found = [(int(one["answer_start"]), str(one["text"])) for one in value]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{row.place}: {self.columns.label}: no answers of SQuAD's form: {error!r}") from None
        for begin, text in found:
            if not text or context[begin : begin + len(text)] != text:
                raise ValueError(f"{row.place}: the answer {text!r} does not stand at character {begin} of the passage")
        return tuple(Span(begin, begin + len(text)) for begin, text in found)

    def items(self, examples: Sequence[Question], training: bool) -> list[Item]:
        """Windows; in training the first answer alone is right."""
        questions = self.reader.ids([example.question for example in examples])
        # A passage with many questions is split into tokens once.
        passages = list(dict.fromkeys(example.context for example in examples))
        encodings = self.reader.tokenizer.encode_batch(passages, add_special_tokens=False)
        read = dict(zip(passages, encodings, strict=True))
        found: list[Item] = []
        for place, (example, question) in enumerate(zip(examples, questions, strict=True)):
            encoding = read[example.context]
            found += self._windows(place, example, question[:MAX_QUESTION], encoding)
        return found

    def _windows(self, place: int, example: Question, question: Ids, encoding: Any) -> list[Item]:
        ids = np.array(encoding.ids, dtype=np.int64)
        spans_T2 = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        question = question[: self.reader.room // 2]
        size = self.reader.room - len(question)
        step = max(1, size - min(self.task.stride, size - 1))
        found = []
        for begin in range(0, max(1, len(ids)), step):
            window = slice(begin, begin + size)
            encoded = self.reader.pair(question, ids[window])
            first = len(encoded.ids) - len(self.reader.after) - len(ids[window])
            target = self._target(example, spans_T2[window], first)
            found.append(Item(place, (encoded,), target, {"first": first, "spans": spans_T2[window]}))
            if begin + size >= len(ids):
                break
        return found

    def _target(self, example: Question, spans_T2: metrics.Ints, first: int) -> tuple[int, int]:
        """The places of the first answer's tokens in a window, or twice 0 where they are not all in it."""
        if not example.answers or not len(spans_T2):
            return 0, 0
        begin, end = example.answers[0]
        if begin < spans_T2[0, 0] or end > spans_T2[-1, 1]:
            return 0, 0
        touched = np.flatnonzero((spans_T2[:, 1] > begin) & (spans_T2[:, 0] < end))
        return (first + int(touched[0]), first + int(touched[-1])) if len(touched) else (0, 0)

    def scores(self, network: Network, items: Sequence[Item]) -> Tensor:
        """(N, T, 2), minus infinity for padding."""
        scores_NT2 = network.of_tokens(self.task.name, [item.sequences[0] for item in items])
        lengths_N = torch.tensor([item.length for item in items], device=scores_NT2.device)
        beyond_NT = torch.arange(scores_NT2.shape[1], device=scores_NT2.device) >= lengths_N[:, None]
        return scores_NT2.masked_fill(beyond_NT[..., None], float("-inf"))

    def loss(self, scores: Tensor, items: Sequence[Item]) -> Tensor:
        """The mean of both cross-entropies."""
        targets_N2 = torch.tensor([item.target for item in items], device=scores.device)
        sides = [F.cross_entropy(scores[..., side], targets_N2[:, side], reduction="sum") for side in (0, 1)]
        return (sides[0] + sides[1]) / 2

    def outcomes(self, scores: Tensor, items: Sequence[Item]) -> list[Any]:
        """The best stretch of each window."""
        values = scores.float().cpu().numpy()
        return [self._best(row, item) for row, item in zip(values, items, strict=True)]

    def _best(self, scores_T2: metrics.Floats, item: Item) -> Best:
        first, spans_T2 = item.facts["first"], item.facts["spans"]
        nothing = float(scores_T2[0].sum())
        if not len(spans_T2):
            return Best(float("-inf"), 0, 0, nothing)
        mine_T2 = scores_T2[first : first + len(spans_T2)]
        sums_TT = mine_T2[:, 0, None] + mine_T2[None, :, 1]
        place_T = np.arange(len(spans_T2))
        length_TT = place_T - place_T[:, None]
        sums_TT = np.where((length_TT >= 0) & (length_TT < self.task.max_answer), sums_TT, -np.inf)
        begin, end = divmod(int(sums_TT.argmax()), len(spans_T2))
        return Best(float(sums_TT[begin, end]), int(spans_T2[begin, 0]), int(spans_T2[end, 1]), nothing)

    def predictions(self, examples: Sequence[Any], items: Sequence[Item], outcomes: Sequence[Any]) -> list[Any]:
        """The best stretch of all windows, or nothing where that has the higher score in every window."""
        best: list[Best | None] = [None] * len(examples)
        for item, one in zip(items, outcomes, strict=True):
            held = best[item.example]
            nothing = one.nothing if held is None else min(held.nothing, one.nothing)
            chosen = one if held is None or one.score > held.score else held
            best[item.example] = chosen._replace(nothing=nothing)
        found = []
        for example, one in zip(examples, best, strict=True):
            assert one is not None
            empty = self.allows_none and one.nothing > one.score
            found.append({"answer": "" if empty else example.context[one.begin : one.end].strip()})
        return found

    def metrics(self, examples: Sequence[Question], predictions: Sequence[Any]) -> dict[str, float]:
        """exact_match and answer_f1."""
        return metrics.answer_scores([one["answer"] for one in predictions], [example.texts for example in examples])

    def baseline(self, training: Sequence[Question], examples: Sequence[Question]) -> dict[str, float]:
        """Those of no answer at all."""
        return self.metrics(examples, [{"answer": ""}] * len(examples))

    @property
    def label_column(self) -> str:
        """The answers."""
        return self.columns.label

    def blank(self, row: Row) -> list[Any]:
        """No answers."""
        return []

    def restore(self, description: Mapping[str, Any]) -> None:
        """With whether nothing is an answer."""
        super().restore(description)
        self.allows_none = bool(description.get("allows_none"))

    def describe(self) -> dict[str, Any]:
        """With whether nothing is an answer."""
        return {**super().describe(), "allows_none": self.allows_none}
