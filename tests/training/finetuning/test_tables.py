"""Rows of task files, and what is said of broken ones."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from training.config import from_dict
from training.finetuning.config import TaskConfig
from training.finetuning.tables import read_table, split_by_hash


def task(path: Path, **further: Any) -> TaskConfig:
    return from_dict(TaskConfig, {"name": "t", "kind": "classification", "train": str(path), **further})


def cells(path: Path, **further: Any) -> list[dict[str, Any]]:
    return [row.cells for row in read_table(task(path, **further), "train")]


@pytest.mark.parametrize(
    ("name", "text", "further", "wanted"),
    [
        ("a.tsv", '\ufefflabel\ttext\n1\t"Quoted" text\r\n\n0\tother\textra\n', {}, ['"Quoted" text', "other"]),
        ("a.csv", 'text,label\n"two\nlines, one cell",1\n', {"format": "csv"}, ["two\nlines, one cell"]),
        ("a.txt", "1 a b c\n0 d\n", {"format": "txt", "names": ["label", "text"]}, ["a b c", "d"]),
        ("a.jsonl", '{"text": "x\\u2028y", "label": 1}\n', {"format": "jsonl"}, ["x\u2028y"]),
        ("a.tsv", "gj\t1\t\tA text.\n", {"names": ["source", "label", "mark", "text"]}, ["A text."]),
    ],
)
@pytest.mark.parametrize("packed", ["plain", "gz", "tar"])
def test_formats(tmp_path: Path, name: str, text: str, further: dict[str, Any], wanted: list[str], packed: str) -> None:
    content, path = text.encode(), tmp_path / name
    if packed == "tar":
        with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
            entry = tarfile.TarInfo(f"in/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        path, further = Path(f"in/{name}"), {**further, "archive": str(tmp_path / "a.tar.gz")}
    elif packed == "gz":
        path = tmp_path / f"{name}.gz"
        path.write_bytes(gzip.compress(content))
    else:
        path.write_bytes(content)
    assert [row["text"] for row in cells(path, **further)] == wanted


def test_sentences_of_conll(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_text("-DOCSTART- X O\n\nJohn NNP B-PER\nran VBD O\n\n\nOslo NNP B-LOC\n")
    found = cells(path, kind="token_classification", format="conll")
    assert found == [{"text": ["John", "ran"], "label": ["B-PER", "O"]}, {"text": ["Oslo"], "label": ["B-LOC"]}]


def test_questions_of_squad(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    asked = [
        {"id": "1", "question": "who?", "answers": [{"text": "Ann", "answer_start": 0}]},
        {"id": "2", "question": "why?", "answers": [], "is_impossible": True},
    ]
    path.write_text(json.dumps({"data": [{"paragraphs": [{"context": "Ann ran.", "qas": asked}]}]}))
    found = cells(path, kind="question_answering", format="squad")
    assert [(row["id"], row["context"], len(row["answers"])) for row in found] == [
        ("1", "Ann ran.", 1),
        ("2", "Ann ran.", 0),
    ]


def test_templates_and_replacements(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"premise": "It rained", "question": "cause"}\n')
    one = {"column": "question", "value": "cause", "by": "because"}
    (row,) = read_table(task(path, format="jsonl", replacements=[one]), "train")
    assert row.value("{premise} {question} ...") == "It rained because ..."


@pytest.mark.parametrize(
    ("name", "content", "further", "message"),
    [
        ("a.tsv", b"text\tlabel\nonly\n", {}, r"a.tsv: line 2: 1 columns instead of 2 \(text, label\)"),
        ("a.tsv", b"text\tlabel\n", {}, "a.tsv: holds no example"),
        ("a.jsonl", b'{"text": 1}\n[1]\n', {"format": "jsonl"}, "a.jsonl: line 2: expected a JSON object"),
        ("a.jsonl", b"{\n", {"format": "jsonl"}, "a.jsonl: line 1"),
        ("a.tsv.gz", b"no gzip", {}, "a.tsv.gz: cannot be read"),
        ("a.tsv", b"\xff\xfe", {}, "a.tsv: cannot be read"),
        ("a.csv", b'text,label\n"open' + b"x" * 200_000, {"format": "csv"}, r"a.csv: line \d: unexpected end of data"),
        ("a.json", b'{"data": [{}]}', {"kind": "question_answering", "format": "squad"}, "not of SQuAD's form"),
    ],
)
def test_broken_files_are_named(
    tmp_path: Path, name: str, content: bytes, further: dict[str, Any], message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        cells(tmp_path / name, **further)


def test_missing_files_and_columns_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tasks\.t\.train: .*none\.tsv: no such file"):
        cells(tmp_path / "none.tsv")
    with tarfile.open(tmp_path / "a.tar", "w"):
        pass
    with pytest.raises(ValueError, match=r"tasks\.t\.train: .*a\.tar: holds no file x\.tsv"):
        cells(Path("x.tsv"), archive=str(tmp_path / "a.tar"))
    (tmp_path / "a.tsv").write_text("text\tlabel\na\t1\n")
    (row,) = read_table(task(tmp_path / "a.tsv"), "train")
    with pytest.raises(ValueError, match=r"a\.tsv: line 2: no column 'sentence'; there are text, label"):
        row.text("sentence")


def test_a_share_by_hash_does_not_depend_on_the_order(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"text": "{number}", "label": 1}}\n' for number in range(400)))
    rows = read_table(task(path, format="jsonl"), "train")
    left, chosen = split_by_hash(rows, 0.25)
    again = split_by_hash(rows[::-1], 0.25)[1]
    assert {row.place for row in chosen} == {row.place for row in again}
    assert len(left) + len(chosen) == 400
    assert 70 < len(chosen) < 130
