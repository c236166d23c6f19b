"""Multiple choice and cloze without training: which of some continuations does the model find likeliest?

A task is a JSON Lines file of {prompt, choices, answer}, the answer a place in the list. With `{}` in the prompt a
choice is filled in there (a cloze, as in ChID, Zheng et al. 2019); otherwise it follows the prompt. A choice is scored
by its own tokens given all others, or given those before it, as the model was trained.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.evaluation.lines import read_rows
from training.evaluation.text_scores import TextScorer

GAP = "{}"


class Question(NamedTuple):
    """A prompt, the choices, and the place of the right one."""

    prompt: str
    choices: tuple[str, ...]
    answer: int


def read_questions(path: str | Path, limit: int | None = None) -> list[Question]:
    """The first questions of a local file, plain or .gz; raises ValueError naming the file and the wrong line."""
    questions = []
    for number, row in read_rows(path, prompt=str, choices=list, answer=int):
        texts = tuple(str(choice) for choice in row["choices"])
        if len(set(texts)) < 2 or not all(texts) or not 0 <= row["answer"] < len(texts):
            raise ValueError(
                f"{path}: line {number}: choices must be two or more texts, answer the place of one of them"
            )
        questions.append(Question(row["prompt"], texts, row["answer"]))
        if limit and len(questions) == limit:
            break
    if not questions:
        raise ValueError(f"{path}: holds no question")
    return questions


def evaluate_choices(
    questions: Sequence[Question], encode: Any, scorer: TextScorer, room: int, cloze_sees_all: bool
) -> dict[str, Any]:
    """accuracy by the sum and by the mean of a choice's tokens, standard errors, chance and the most frequent answer.

    encode: texts -> ids; room: tokens of text that fit into the context (a longer prompt loses its beginning).
    `cloze_sees_all`: score a filled cloze by the choice's own tokens; otherwise by them and all that follows, which a
    model that reads from left to right alone sees.
    """
    filled = [_fill(question, choice) for question in questions for choice in question.choices]
    before, both = encode([text[: parts[0]] for text, parts in filled]), encode([text for text, _ in filled])
    until = encode([text[: parts[1]] for text, parts in filled])
    sequences, spans = [], []
    for prompt, head, whole in zip(before, until, both, strict=True):
        begin = min(_common(prompt, whole), len(whole) - 1)  # a token may reach over the border
        end = max(begin + 1, _common(head, whole)) if cloze_sees_all else len(whole)
        cut = max(0, end - room)
        sequences.append(whole[cut : cut + room])
        spans.append((max(0, begin - cut), end - cut))
    logs = scorer(sequences, [begin for begin, _ in spans])
    sums = [float(log[begin:end].astype(np.float64).sum()) for log, (begin, end) in zip(logs, spans, strict=True)]
    means = [total / max(1, end - begin) for total, (begin, end) in zip(sums, spans, strict=True)]
    answers = Counter(question.answer for question in questions)
    return {
        "sum": _proportion(_credits(questions, sums)),
        "mean": _proportion(_credits(questions, means)),
        "baselines": {
            "chance": float(np.mean([1 / len(question.choices) for question in questions])),
            "majority": answers.most_common(1)[0][1] / len(questions),
        },
        "questions": len(questions),
    }


def _fill(question: Question, choice: str) -> tuple[str, tuple[int, int]]:
    """The text with a choice in it, and where in it the choice begins and ends."""
    head, gap, tail = question.prompt.partition(GAP)
    if not gap:
        return question.prompt + choice, (len(question.prompt), len(question.prompt) + len(choice))
    return head + choice + tail, (len(head), len(head) + len(choice))


def _common(first: NDArray[np.int64], second: NDArray[np.int64]) -> int:
    """How many tokens both begin with."""
    most = min(len(first), len(second))
    different = np.flatnonzero(first[:most] != second[:most])
    return int(different[0]) if len(different) else most


def _credits(questions: Sequence[Question], scores: Sequence[float]) -> list[float]:
    """1 for a right answer; choices that tie share it."""
    given, credits = iter(scores), []
    for question in questions:
        mine = [next(given) for _ in question.choices]
        best = [place for place, score in enumerate(mine) if score == max(mine)]
        credits.append(1 / len(best) if question.answer in best else 0.0)
    return credits


def _proportion(credits: Sequence[float]) -> dict[str, float]:
    share = float(np.mean(credits))
    return {"accuracy": share, "standard_error": math.sqrt(share * (1 - share) / len(credits))}
