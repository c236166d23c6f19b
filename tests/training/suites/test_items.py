"""Task files, templates and examples; and what is said of broken ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.training.suites.toys import quiz, write_archive, write_rows, write_yaml
from training.config.reading import from_dict
from training.suites.config import SuiteConfig
from training.suites.items import items
from training.suites.library import names, resolve
from training.suites.task import Task

QUIZ = {
    "name": "quiz",
    "form": "choices",
    "file": "quiz.jsonl",
    "prompt": "Q: {question}\nA:",
    "choices_field": "options",
    "answer": "right",
}


def task(**changes: Any) -> Task:
    return from_dict(Task, {**QUIZ, **changes})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_rows(tmp_path / "quiz.jsonl", quiz())
    return tmp_path


def test_an_item_is_the_prompt_with_each_choice(root: Path):
    first = items(task(), str(root), 1)[0]
    question = quiz()[0]
    assert first.options == tuple((f"Q: {question['question']}\nA:", f" {option}") for option in question["options"])
    assert (first.answers, first.gold) == (tuple(question["options"]), 0)


def test_random_examples_leave_the_item_out_and_follow_the_seed(root: Path):
    rows = quiz()
    shown = items(task(shots=3), str(root), 7)
    for number, item in enumerate(shown):
        *examples, own = item.options[0][0].split("\n\n")
        assert own == f"Q: {rows[number]['question']}\nA:"
        known = {f"Q: {row['question']}\nA: {row['options'][row['right']]}": place for place, row in enumerate(rows)}
        places = [known[example] for example in examples]
        assert len(set(places)) == 3
        assert number not in places
    # Drawn anew for each item: one draw for all, each without itself, would be four different ones.
    assert len({item.options[0][0].rpartition("\n\n")[0] for item in shown}) > 4
    assert shown == items(task(shots=3), str(root), 7)
    assert shown != items(task(shots=3), str(root), 8)
    assert shown[:4] == items(task(shots=3), str(root), 7, limit=4)


def test_first_examples_of_another_file_by_group(root: Path):
    write_rows(root / "dev.jsonl", list(reversed(quiz())))
    given = {"shots": 2, "shots_file": "dev.jsonl", "shots_order": "first", "group": "kind", "shots_of_group": True}
    second = items(task(**given), str(root), 1)[1]
    odd = [row for row in reversed(quiz()) if row["kind"] == "odd"][:2]
    wanted = "".join(f"Q: {row['question']}\nA: {row['options'][row['right']]}\n\n" for row in odd)
    assert second.options[0][0].startswith(wanted)
    with pytest.raises(ValueError, match="quiz: 7 examples were asked for, but there are 6 rows"):
        items(task(**{**given, "shots": 7}), str(root), 1)


def test_tables_in_an_archive(tmp_path: Path):
    table = 'no,Question,A,B,Answer\n0,one,x,y,B\n1,two,"x, or",y,A\n'
    write_archive(tmp_path / "a.tar.gz", {"./test/law.csv": table, "test/art.csv": table, "dev/art.csv": table})
    read = items(
        task(
            file="a.tar.gz#test/*.csv",
            prompt="{Question}",
            choices_field="",
            choices=["{A}", "{B}"],
            answer="Answer",
            labels=["A", "B"],
            group="_file",
        ),
        str(tmp_path),
        1,
    )
    assert [item.group for item in read] == ["art", "art", "law", "law"]
    assert [item.gold for item in read] == [1, 0, 1, 0]
    assert read[1].answers == ("x, or", "y")


def test_fields_are_made_from_others(tmp_path: Path):
    write_rows(tmp_path / "c.jsonl", [{"p": "It fell.", "q": "cause", "a": "It broke.", "b": "A wind", "label": 1}])
    given = {
        "file": "c.jsonl",
        "prompt": "{p} {word}{{}}",
        "choices_field": "",
        "choices": ["{a}", "{b}"],
        "answer": "label",
        "derive": [
            {"name": "word", "field": "q", "values": ["cause", "effect"], "texts": ["because", "so"]},
            {"name": "p", "field": "p", "remove_end": "."},
            {"name": "a", "field": "a", "lower_first": True},
        ],
    }
    (item,) = items(task(**given), str(tmp_path), 1)
    assert item.options[0] == ("It fell because{}", " it broke.")
    write_rows(tmp_path / "c.jsonl", [{"p": "It fell.", "q": "why", "a": "x", "b": "y", "label": 1}])
    with pytest.raises(ValueError, match=r"c.jsonl: row 1: q is 'why'; allowed are cause, effect"):
        items(task(**given), str(tmp_path), 1)


@pytest.mark.parametrize(
    ("change", "row", "said"),
    [
        ({}, {"question": "x", "right": 0}, "row 2: has no field options; there are _file, question, right"),
        ({}, {"question": "x", "options": "ab", "right": 0}, "row 2: options must be a list, got 'ab'"),
        ({}, {"question": "x", "options": ["a"], "right": 0}, "row 2: needs two choices or more"),
        ({}, {"question": "x", "options": ["a", "b"], "right": 2}, "row 2: right is 2, but there are 2 choices"),
        ({}, {"question": "x", "options": ["a", "b"], "right": "B"}, "row 2: right is 'B', not the number of a choice"),
        (
            {"labels": ["0", "1", "2"]},
            {"question": "x", "options": ["a", "b"], "right": "C"},
            "row 2: right is 'C'; allowed are 0, 1, 2",
        ),
        ({"prompt": "{quest}"}, None, "row 1: has no field quest; there are _file, question"),
    ],
)
def test_a_broken_row_is_named(tmp_path: Path, change: dict[str, Any], row: dict[str, Any] | None, said: str):
    write_rows(tmp_path / "quiz.jsonl", [quiz()[0], *([row] if row else [])])
    with pytest.raises(ValueError, match="quiz.jsonl") as error:
        items(task(**change), str(tmp_path), 1)
    assert said in str(error.value)


def test_a_broken_file_is_named(tmp_path: Path):
    for name, content, said in (
        ("a.jsonl", b"[1]\n", "line 1: expected a JSON object"),
        ("b.jsonl", b'{"a": 1}\n{"a"\n', "line 2: "),
        ("c.jsonl", b"", "holds no row"),
        ("d.jsonl.gz", b"no gzip", "cannot be read"),
        ("e.csv", b"a,b\n1\n", "line 2: expected 2 columns"),
        ("f.jsonl", b"\xff\xfe", "not UTF-8"),
        ("g.xlsx", b"x", "ends in .jsonl, .csv, .tsv or .txt"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name) as error:
            items(task(file=name), str(tmp_path), 1)
        assert said in str(error.value)
    with pytest.raises(ValueError, match=r"none.jsonl: there is no such file; set root"):
        items(task(file="none.jsonl"), str(tmp_path), 1)
    write_archive(tmp_path / "a.tar.gz", {"x.jsonl": "{}"})
    with pytest.raises(ValueError, match=r"a.tar.gz: holds no file y.jsonl"):
        items(task(file="a.tar.gz#y.jsonl"), str(tmp_path), 1)


def test_a_wrong_task_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match=r"bad.yaml: answer: missing; a task of the form choices needs it"):
        resolve([write_yaml(tmp_path / "bad.yaml", **{**QUIZ, "answer": ""})])
    with pytest.raises(ValueError, match=r"bad.yaml: promt: unknown"):
        resolve([write_yaml(tmp_path / "bad.yaml", **QUIZ, promt="x")])
    with pytest.raises(ValueError, match=r"unknown 'helaswag'; there are the groups .*core.* the tasks .*hellaswag"):
        resolve(["helaswag"])
    with pytest.raises(ValueError, match="two different ones are called hellaswag"):
        resolve(["hellaswag", write_yaml(tmp_path / "mine.yaml", **{**QUIZ, "name": "hellaswag"})])


def test_what_comes_with_the_package_can_be_read():
    known = names()
    resolved = resolve([*known["groups"], *known["tasks"]])
    assert {task.name for task in resolved.tasks} >= set(known["tasks"])
    core = next(group for group in resolved.groups if group.group.name == "core")
    assert len(core.tasks) + len(core.group.missing) == 22  # Li et al. 2024, section 3.5
    config = SuiteConfig(tasks=("core", "xcopa"), root="somewhere")
    assert "somewhere/eval/core/piqa.jsonl.gz" in config.files()
    assert "somewhere/eval/xcopa.tar.gz" in config.files()


def test_own_files_enter_the_identity(tmp_path: Path):
    mine = write_yaml(tmp_path / "mine.yaml", **QUIZ)
    group = write_yaml(tmp_path / "both.yaml", tasks=[mine, {"task": mine, "shots": 2}])
    resolved = resolve([group])
    assert [task.name for task in resolved.tasks] == ["quiz", "quiz_2shot"]
    files = SuiteConfig(tasks=(group,), root="r", checkpoints=("c",)).files()
    assert files[:2] == [group, mine]
    assert {"r/quiz.jsonl", "c/model.safetensors"} <= set(files)
    json.dumps(files)
