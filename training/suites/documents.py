"""Rows of task files: JSON Lines, CSV, TSV, plain text, compressed or in an archive, and a look at their fields."""

from __future__ import annotations

import csv
import fnmatch
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from training.data_files import UNREADABLE, content_of, json_rows, members_of
from training.suites.task import Derived

FILE = "_file"

Row = dict[str, Any]


def read_documents(root: str, name: str, limit: int = 0) -> list[Row]:
    """The rows of a task's file, or of several, with `_file` (the name without suffixes) added.

    `archive#member` names a file in a tar archive; `*` stands for any part of a name, and the files then follow each
    other in order of their names. Raises ValueError naming the file, and the line of a broken row.
    """
    rows: list[Row] = []
    for path, content in _contents(Path(root), name):
        before = len(rows)
        for row in _rows(path, content):
            rows.append({FILE: Path(path.partition("#")[2] or path).name.partition(".")[0], **row})
            if limit and len(rows) == limit:
                return rows
        if len(rows) == before:
            raise ValueError(f"{path}: holds no row")
    return rows


def derive(rows: Sequence[Row], derived: Sequence[Derived], where: str) -> list[Row]:
    """The rows with the derived fields added, each from those before it; raises ValueError naming file and row."""
    result = []
    for number, row in enumerate(rows, 1):
        made = dict(row)
        for one in derived:
            made[one.name] = _derived(made, one, f"{where}: row {number}")
        result.append(made)
    return result


def _derived(row: Row, one: Derived, where: str) -> str:
    if one.field not in row:
        raise ValueError(f"{where}: has no field {one.field}; there are {', '.join(row)}")
    text = str(row[one.field])
    if one.values:
        if text not in one.values:
            raise ValueError(f"{where}: {one.field} is {text!r}; allowed are {', '.join(one.values)}")
        text = one.texts[one.values.index(text)]
    if one.remove_end and text and text[-1] in one.remove_end:
        text = text[:-1]
    return text[:1].lower() + text[1:] if one.lower_first else text


def _contents(root: Path, name: str) -> Iterator[tuple[str, bytes]]:
    """Each file that a name stands for, and its bytes."""
    outer, _, member = name.partition("#")
    paths = sorted(root.glob(outer)) if "*" in outer and not Path(outer).is_absolute() else [root / outer]
    if not paths:
        raise ValueError(f"{root / outer}: there is no such file")
    for path in paths:
        if not path.is_file():
            raise ValueError(f"{path}: there is no such file; set root to the folder that holds {outer}")
        try:
            if member:
                yield from _members(path, member)
            else:
                yield str(path), content_of(path.open("rb"), str(path))
        except UNREADABLE as error:
            raise ValueError(f"{path}: cannot be read: {error}") from None


def _members(path: Path, pattern: str) -> Iterator[tuple[str, bytes]]:
    """Files of an archive by name."""
    found = dict(members_of(path, lambda name: fnmatch.fnmatchcase(name, pattern)))
    if not found:
        raise ValueError(f"{path}: holds no file {pattern}")
    yield from ((f"{path}#{name}", content) for name, content in sorted(found.items()))


def _rows(path: str, content: bytes) -> Iterator[Row]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8: {error}") from None
    kind = Path(path.removesuffix(".gz")).suffix
    if kind in (".jsonl", ".json", ".ndjson"):
        yield from (row for _, row in json_rows(path, text))
    elif kind in (".csv", ".tsv"):
        yield from _table_rows(path, text, "," if kind == ".csv" else "\t")
    elif kind == ".txt":
        yield {"text": text}
    else:
        raise ValueError(f"{path}: a task's file ends in .jsonl, .csv, .tsv or .txt (.gz may follow)")


def _table_rows(path: str, text: str, delimiter: str) -> Iterator[Row]:
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=delimiter == ",")
    try:
        for row in reader:
            if None in row or None in row.values():
                raise ValueError(f"{path}: line {reader.line_num}: expected {len(reader.fieldnames or [])} columns")
            yield dict(row)
    except csv.Error as error:
        raise ValueError(f"{path}: line {reader.line_num}: {error}") from None
