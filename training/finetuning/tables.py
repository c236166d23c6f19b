"""Rows of task files, whatever their format: a mapping of column names to values, with where each stands."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from training.data_files import UNREADABLE, content_of, json_rows, members_of
from training.finetuning.config import TaskConfig

_FIELD = re.compile(r"\{(\w[^{}]*)\}")


class Row(NamedTuple):
    """A row of a file."""

    place: str
    """`<file>: line <number>`, for what is said of a broken one."""
    cells: dict[str, Any]

    def value(self, column: str) -> Any:
        """The cell of a column, or a filled template; raises ValueError naming the row and what it lacks."""
        if "{" in column:
            return _FIELD.sub(lambda match: self.text(match[1]), column)
        if column not in self.cells:
            known = ", ".join(self.cells)
            raise ValueError(f"{self.place}: no column {column!r}; there are {known}")
        return self.cells[column]

    def text(self, column: str) -> str:
        """The same as a string; raises ValueError where it is a list, an object or nothing."""
        value = self.value(column)
        if value is None or isinstance(value, list | dict):
            raise ValueError(f"{self.place}: {column}: expected a text, got {value!r}")
        return str(value)


def read_table(task: TaskConfig, split: str) -> list[Row]:
    """The rows of one of a task's files; raises ValueError naming the field, the file and the line of what is wrong."""
    name, text = _content(task, split)
    if task.format == "jsonl":
        rows = [Row(f"{name}: line {number}", row) for number, row in json_rows(name, text)]
    elif task.format == "conll":
        rows = list(_sentences(name, text, task))
    elif task.format == "squad":
        rows = list(_questions(name, text))
    else:
        rows = list(_table(name, text, task))
    if not rows:
        raise ValueError(f"tasks.{task.name}.{split}: {name}: holds no example")
    return [_replaced(row, task) for row in rows]


def _content(task: TaskConfig, split: str) -> tuple[str, str]:
    """What a file is called in errors, and its text: plain, .gz, or a member of the task's archive."""
    member = getattr(task, split)
    path = Path(task.archive or member)
    at = f"tasks.{task.name}.{'archive' if task.archive else split}: {path}"
    if not path.is_file():
        raise ValueError(f"{at}: no such file")
    name = f"{path}#{member}" if task.archive else str(path)
    try:
        if task.archive:
            octets = next((content for _, content in members_of(path, member.__eq__)), None)
        else:
            octets = content_of(path.open("rb"), name)
        if octets is None:
            raise ValueError(f"tasks.{task.name}.{split}: {path}: holds no file {member}")
        return name, octets.decode("utf-8-sig")
    except (*UNREADABLE, UnicodeDecodeError) as error:
        raise ValueError(f"{name}: cannot be read: {error}") from None


def split_by_hash(rows: Sequence[Row], share: float) -> tuple[list[Row], list[Row]]:
    """The rows without and with those whose hash lies in the share: the same on every machine, whatever their order."""
    chosen = [_fraction(row) < share for row in rows]
    return (
        [row for row, mine in zip(rows, chosen, strict=True) if not mine],
        [row for row, mine in zip(rows, chosen, strict=True) if mine],
    )


def _table(name: str, text: str, task: TaskConfig) -> Iterator[Row]:
    names = list(task.names)
    for number, cells in _cells(name, text, task):
        if not names:
            names = cells
            continue
        if len(cells) < len(names):
            raise ValueError(
                f"{name}: line {number}: {len(cells)} columns instead of {len(names)} ({', '.join(names)})"
            )
        yield Row(f"{name}: line {number}", dict(zip(names, cells, strict=False)))


def _cells(name: str, text: str, task: TaskConfig) -> Iterator[tuple[int, list[str]]]:
    """The cells of each line that is not blank, numbered; more than there are names are left to the reader."""
    if task.format == "csv":
        # Its cells may hold ends of lines. The limit is the process's, not the reader's: a cell may be as long as the
        # file, and a quote that is never closed is told at the file's end (`strict`).
        csv.field_size_limit(max(csv.field_size_limit(), len(text)))
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        try:
            yield from ((reader.line_num, cells) for cells in reader if cells)
        except csv.Error as error:  # such as a quote that is never closed
            raise ValueError(f"{name}: line {reader.line_num}: {error}") from None
        return
    most = len(task.names) - 1 if task.names else -1
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.rstrip("\r")
        if line.strip():
            # The last named column of a txt file takes the rest of the line.
            yield number, line.split("\t") if task.format == "tsv" else line.split(task.separator, most)


def _sentences(name: str, text: str, task: TaskConfig) -> Iterator[Row]:
    """A row for each sentence, whose cells are lists: by `names`, or of the first and last column as text and label."""
    names = list(task.names) or [task.columns.text, task.columns.label]
    begin = 1
    found: list[list[str]] = []
    for number, line in enumerate([*text.split("\n"), ""], start=1):
        if line.strip():
            begin = begin if found else number
            cells = line.split("\t") if "\t" in line else line.split()
            cells = [cells[0], cells[-1]] if not task.names and len(cells) > 1 else cells
            if len(cells) < len(names):
                raise ValueError(f"{name}: line {number}: {len(cells)} columns instead of {len(names)}")
            if cells[0] != "-DOCSTART-":
                found.append(cells)
        elif found:
            columns = zip(*(cells[: len(names)] for cells in found), strict=True)
            cells_by_name = {key: list(column) for key, column in zip(names, columns, strict=True)}
            yield Row(f"{name}: line {begin}", cells_by_name)
            found = []


def _questions(name: str, text: str) -> Iterator[Row]:
    """A row {id, question, context, answers} for each question of a file of SQuAD's form."""
    try:
        document = json.loads(text)
        for article in document["data"]:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    cells = {
                        "id": str(question["id"]),
                        "question": str(question["question"]),
                        "context": str(paragraph["context"]),
                        "answers": [] if question.get("is_impossible") else list(question["answers"]),
                    }
                    yield Row(f"{name}: question {cells['id']}", cells)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{name}: not of SQuAD's form: {error!r}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{name}: not valid JSON: {error}") from None


def _replaced(row: Row, task: TaskConfig) -> Row:
    for one in task.replacements:
        if str(row.value(one.column)) == one.value:
            row = Row(row.place, {**row.cells, one.column: one.by})
            break
    return row


def _fraction(row: Row) -> float:
    content = json.dumps(row.cells, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little") / 2**64
