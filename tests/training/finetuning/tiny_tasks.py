"""Small tasks that a small model learns in a second, written as files, and fine-tunings of them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from tests.training.small_models import one_thread
from training.finetuning import run

__all__ = ["TASKS", "finetune", "one_thread", "settings", "task"]

NAMES, VERBS = ["man", "women", "book", "king", "house"], ["saw", "reads", "see"]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def sentence(drawn: random.Random, words: int = 6) -> list[str]:
    return [drawn.choice(NAMES + VERBS) for _ in range(words)]


def classification(drawn: random.Random) -> dict[str, Any]:
    """Whether the first word is a verb: told at the beginning, where first tokens read, and at the end."""
    words = sentence(drawn, drawn.randint(2, 8))
    label = drawn.choice(["verb", "name"])
    mark = drawn.choice(VERBS if label == "verb" else NAMES)
    return {"text": " ".join([mark, *words, mark]), "label": label}


def pairs(drawn: random.Random) -> dict[str, Any]:
    """Whether the second text begins with a verb."""
    row = classification(drawn)
    return {"text": " ".join(sentence(drawn, 3)), "second": row["text"], "label": row["label"]}


def regression(drawn: random.Random) -> dict[str, Any]:
    row = classification(drawn)
    return {"text": row["text"], "label": 4.5 if row["label"] == "verb" else 0.5}


def tags(drawn: random.Random) -> dict[str, Any]:
    """A word is tagged where it follows a verb: its own form tells nothing."""
    words = sentence(drawn)
    before = ["", *words]
    return {"text": words, "label": ["B-V" if before[place] in VERBS else "O" for place in range(len(words))]}


def choices(drawn: random.Random) -> dict[str, Any]:
    right = drawn.randrange(2)
    both = [drawn.choice(VERBS if place == right else NAMES) for place in range(2)]
    return {"text": "the", "one": both[0], "two": both[1], "label": right}


def questions(drawn: random.Random) -> dict[str, Any]:
    words = [drawn.choice(NAMES) for _ in range(5)]
    words[drawn.randrange(5)] = "reads"
    context = " ".join(words)
    return {
        "question": "what verb",
        "context": context,
        "answers": [{"text": "reads", "answer_start": context.index("reads")}],
    }


def instructions(drawn: random.Random) -> dict[str, Any]:
    word = drawn.choice(NAMES)
    return {"text": f"say {word}", "answer": f" {word}"}


MAKERS = {
    "classification": classification,
    "pair_classification": pairs,
    "regression": regression,
    "token_classification": tags,
    "multiple_choice": choices,
    "question_answering": questions,
    "instruction": instructions,
}
COLUMNS: dict[str, dict[str, Any]] = {
    "pair_classification": {"second": "second"},
    "multiple_choice": {"choices": ["one", "two"]},
    "question_answering": {"text": "question", "second": "context", "label": "answers"},
    "instruction": {"second": "answer"},
}
TASKS = tuple(MAKERS)


def task(folder: Path, kind: str, examples: int = 64, **further: Any) -> dict[str, Any]:
    """The configuration of a task of a kind, its files being written."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = random.Random(f"{kind} {examples}")
    files = {}
    for split, count in (("train", examples), ("dev", 24)):
        rows = [MAKERS[kind](drawn) for _ in range(count)]
        files[split] = write_rows(folder / f"{kind}-{split}.jsonl", rows)
    return {"name": kind, "kind": kind, "format": "jsonl", "columns": COLUMNS.get(kind, {}), **files, **further}


def settings(checkpoint: Path, output: Path, *tasks: dict[str, Any], **further: Any) -> dict[str, Any]:
    """The configuration of a fine-tuning on one thread."""
    plain = {"epochs": 3, "batch_size": 8, "learning_rate": 3e-3, "threads": 1, "device": "cpu", "precision": "fp32"}
    return {"checkpoint": str(checkpoint), "output": str(output), "tasks": list(tasks), **plain, **further}


def finetune(checkpoint: Path, output: Path, *tasks: dict[str, Any], **further: Any) -> dict[str, Any]:
    return run(settings(checkpoint, output, *tasks, **further))
