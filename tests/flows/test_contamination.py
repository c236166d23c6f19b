"""The marks on scores: a set counts as cleaned of only where the very file was looked for, and what was found went."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows.contamination import mark_of_file
from pipeline.store import file_sha256


def summary(digest: str, action: str = "cut", found: int = 2) -> dict[str, Any]:
    facts = {"digest": digest, "items": 10, "checked": 8, "found": found}
    return {"rule": "gpt3", "action": action, "benchmarks": {"quiz": facts}}


@pytest.fixture
def quiz(tmp_path: Path) -> Path:
    path = tmp_path / "quiz.jsonl"
    path.write_text("{}\n")
    return path


def test_the_same_file_counts_as_cleaned_of_and_tells_what_was_too_short(quiz: Path):
    mark = mark_of_file(quiz, summary(file_sha256(quiz)))
    assert mark.cleaned
    assert mark.note.startswith("2 of 8 items that can be looked for were found (rule gpt3) and removed")
    assert mark.note.endswith("; 2 are too short to look for")


def test_another_file_of_the_same_name_does_not(quiz: Path):
    assert not mark_of_file(quiz, summary("0" * 64)).cleaned
    assert "NOT cleaned of" in mark_of_file(quiz, summary("0" * 64)).note


def test_a_run_without_the_stage_has_cleaned_of_nothing(quiz: Path):
    assert not mark_of_file(quiz, {}).cleaned


def test_items_that_were_only_noted_are_still_there(quiz: Path):
    digest = file_sha256(quiz)
    assert "LEFT in the corpus" in mark_of_file(quiz, summary(digest, "annotate")).note
    assert not mark_of_file(quiz, summary(digest, "annotate")).cleaned
    assert mark_of_file(quiz, summary(digest, "annotate", found=0)).cleaned
