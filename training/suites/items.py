"""Items of a task: what is asked of the model, made from rows by the task's templates and examples.

An item of choices is one context and several continuations; of contexts several contexts and one continuation; of pairs
two texts without a context. All of them are (context, continuation) texts that a model scores, and the place of the
right one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from training.suites.documents import FILE, Row, derive, read_documents
from training.suites.task import Task
from training.suites.templates import field, fill, shown


@dataclass(frozen=True)
class Item:
    """One question. Of generation and text, `options` holds the prompt alone, or nothing and the text."""

    options: tuple[tuple[str, str], ...]
    """Contexts and continuations to be scored."""
    answers: tuple[str, ...]
    """What the continuations are without what parts them from the prompt: their length is counted from these."""
    gold: int
    references: tuple[str, ...] = ()
    group: str = ""


@dataclass(frozen=True)
class Question:
    """A row in words, before examples are put before it."""

    prompts: tuple[str, ...]
    """One, or one for each context."""
    answers: tuple[str, ...]
    gold: int
    references: tuple[str, ...]
    group: str

    def example(self, task: Task) -> str:
        """The question with its right answer, as it stands in the prompt of another."""
        prompt = self.prompts[self.gold if task.form == "contexts" else 0]
        answer = self.answers[0 if task.form == "contexts" else self.gold] if self.answers else self.references[0]
        return f"{prompt}{task.delimiter}{answer}"


def items(task: Task, root: str, seed: int, limit: int = 0) -> list[Item]:
    """The items of a task, examples included.

    Raises ValueError naming file and row for a missing field, a label outside of the set, or too few examples.
    """
    most = min((count for count in (limit, task.limit) if count), default=0)
    rows = read_documents(root, task.file, 0 if task.shots and not task.shots_file else most)
    questions = _questions(task, rows, task.file)
    if not task.shots:
        return [_item(task, question, "") for question in questions]
    if task.form in ("pairs", "text"):
        raise ValueError(f"{task.name}: a task of the form {task.form} takes no examples; set shots to 0")
    own = not task.shots_file
    pool = questions if own else _questions(task, read_documents(root, task.shots_file), task.shots_file)
    found = []
    places = _pools(task, pool)
    for index, question in enumerate(questions[: most or None]):
        mine = places.get(question.group if task.shots_of_group else "", [])
        chosen = _choose(task, mine, index if own else -1, seed, index)
        shots = "".join(pool[place].example(task) + task.shot_delimiter for place in chosen)
        found.append(_item(task, question, task.preamble + shots))
    return found


def _questions(task: Task, rows: Sequence[Row], file: str) -> list[Question]:
    derived = derive(rows, task.derive, file)
    return [_question(task, row, f"{file}: row {number}") for number, row in enumerate(derived, 1)]


def _question(task: Task, row: Row, where: str) -> Question:
    group = str(field(row, task.group, where)) if task.group else str(row[FILE])
    if task.form == "pairs":
        return Question(("", ""), (_text(row, task.good, where), _text(row, task.bad, where)), 0, (), group)
    if task.form == "text":
        return Question((), (_text(row, task.text, where),), 0, (), group)
    if task.form == "continuation":
        answer = fill(task.continuation, row, where)
        return Question((fill(task.prompt, row, where),), (answer,), 0, (), group)
    if task.form == "generation":
        value = field(row, task.references, where)
        references = tuple(str(one) for one in value) if isinstance(value, list) else (str(value),)
        if not references:
            raise ValueError(f"{where}: {task.references} is an empty list")
        return Question((fill(task.prompt, row, where),), (), 0, references, group)
    options = _options(task, row, where)
    gold = _gold(task, row, len(options), where)
    if task.form == "contexts":
        return Question(options, (fill(task.continuation, row, where),), gold, (), group)
    return Question((fill(task.prompt, row, where),), options, gold, (), group)


def _options(task: Task, row: Row, where: str) -> tuple[str, ...]:
    if task.choices_field:
        value = field(row, task.choices_field, where)
        if not isinstance(value, list):
            raise ValueError(f"{where}: {task.choices_field} must be a list, got {shown(value)}")
        options = tuple(str(one) for one in value)
    else:
        options = tuple(fill(one, row, where) for one in task.choices)
    if len(options) < 2 or not all(options):
        raise ValueError(f"{where}: needs two choices or more, none of them empty; got {shown(options)}")
    return options


def _gold(task: Task, row: Row, count: int, where: str) -> int:
    value = field(row, task.answer, where)
    if task.labels:
        if str(value) not in task.labels:
            raise ValueError(f"{where}: {task.answer} is {shown(value)}; allowed are {', '.join(task.labels)}")
        place = task.labels.index(str(value))
    else:
        try:
            place = int(str(value)) - task.answer_base
        except ValueError:
            raise ValueError(
                f"{where}: {task.answer} is {shown(value)}, not the number of a choice; name the labels in the task"
            ) from None
    if not 0 <= place < count:
        raise ValueError(f"{where}: {task.answer} is {shown(value)}, but there are {count} choices")
    return place


def _item(task: Task, question: Question, before: str) -> Item:
    prompts = tuple(before + prompt for prompt in question.prompts)
    gold, group, answers = question.gold, question.group, question.answers
    if task.form == "pairs":
        options = tuple(("", answer) for answer in answers)
    elif task.form == "text":
        options = (("", answers[0]),)
    elif task.form == "generation":
        options = ((prompts[0] + task.delimiter.rstrip(" "), ""),)
    elif task.form == "contexts":
        options = tuple((prompt, task.delimiter + answers[0]) for prompt in prompts)
    else:
        options = tuple((prompts[0], task.delimiter + answer) for answer in answers)
    return Item(options, answers, gold, question.references, group)


def _pools(task: Task, pool: Sequence[Question]) -> dict[str, list[int]]:
    """Places of possible examples, all under the name "" or by group."""
    places: dict[str, list[int]] = {}
    for place, question in enumerate(pool):
        places.setdefault(question.group if task.shots_of_group else "", []).append(place)
    return places


def _choose(task: Task, places: list[int], left_out: int, seed: int, index: int) -> list[int]:
    """The examples of one item: another random choice for each, or the first ones."""
    if len(places) - (left_out >= 0) < task.shots:
        raise ValueError(
            f"{task.name}: {task.shots} examples were asked for, but there are {len(places)} rows to take them from"
        )
    if task.shots_order == "first":
        return [place for place in places[: task.shots + 1] if place != left_out][: task.shots]
    drawn = np.random.default_rng([seed, index]).choice(len(places), task.shots + (left_out >= 0), replace=False)
    return [places[number] for number in drawn.tolist() if places[number] != left_out][: task.shots]


def _text(row: Row, name: str, where: str) -> str:
    value: Any = field(row, name, where)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{where}: {name} must be a text, got {shown(value)}")
    return value
