from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.quality.c4 import (
    C4,
    JAVASCRIPT_BIT,
    LOREM_IPSUM,
    LOREM_IPSUM_BIT,
    PHRASES,
    POLICY,
    POLICY_BIT,
    C4Lines,
)
from pipeline.quality.lines import Lines, line_rules, remove_lines
from pipeline.quality.signals import measure
from pipeline.text.records import PHRASE_SHIFT
from tests.pipeline.text import reference
from tests.pipeline.text.strategies import texts

LONG = "This line has enough words to stay."


def edited(text: str, **rules: Any) -> tuple[str, int]:
    found = remove_lines(pa.array([text]), line_rules(Lines(c4=C4Lines(**rules))), ["c4"])
    return found.texts.to_pylist()[0], int(found.removed_lines[0, 0])


@pytest.mark.parametrize(
    ("text", "expected", "removed"),
    [
        (f"{LONG}\nToo short\n{LONG}", f"{LONG}\n{LONG}", 1),
        (f"  {LONG} \t\r\nMenu\r\n", f"  {LONG}", 1),
        (f"{LONG}\n\nMenu\n\n{LONG}\n\n\n", f"{LONG}\n\n{LONG}", 1),
        (f"{LONG}\n \nMenu\n{LONG}", f"{LONG}\n\n{LONG}", 1),
        (f"Menu\n\n{LONG}\nMenu", LONG, 2),
        (f"\n {LONG} \n\n\n{LONG}\t\n", f"\n {LONG} \n\n\n{LONG}\t\n", 0),
        ("Menu\nHome", "", 2),
        ("\n\n", "\n\n", 0),
        ("今天天气很好。\n首页", "今天天气很好。", 1),
    ],
)
def test_lines_go_and_paragraphs_stay(text: str, expected: str, removed: int):
    assert edited(text) == (expected, removed)


@given(st.lists(texts, max_size=6), st.booleans(), st.sampled_from((None, 2, 5)))
@settings(max_examples=100, deadline=None)
def test_the_text_is_that_of_the_plain_statement(batch: list[str], strict: bool, words: int | None):
    config = C4Lines(minimum_words=words, maximum_word_length=20, terminal_punctuation=strict)
    rules: dict[str, Any] = {"minimum_words": words or 0, "maximum_word_length": 20, "terminal_punctuation": strict}
    found = remove_lines(pa.array(batch, pa.large_string()), line_rules(Lines(c4=config)), ["c4"])
    found.texts.validate(full=True)
    assert [*zip(found.texts.to_pylist(), found.removed_lines[:, 0].tolist(), strict=True)] == [
        reference.remove_lines(text, **rules)[:2] for text in batch
    ]


@given(texts)
@settings(deadline=None)
def test_a_second_pass_removes_nothing_more(text: str):
    once, _ = edited(text)
    again, removed = edited(once)
    assert (again, removed) == (once, 0)
    signals = measure(pa.array([text, once]), ["en", "en"], line_rules(Lines())).to_pylist()
    assert signals[0]["c4_kept_sentences"] == signals[1]["c4_kept_sentences"]
    assert signals[0]["text_bytes"] - signals[0]["c4_removed_bytes"] == len(once.encode())


def test_a_run_of_1000_characters_stays_and_letters_of_unspaced_scripts_end_a_run():
    assert edited(f"one two three four {'x' * 1000}")[1] == 0
    assert edited(f"one two three four {'x' * 1001}")[1] == 1
    assert edited("世界" * 1000)[1] == 0
    assert edited(f"one two three four {'x' * 600}世{'x' * 600}")[1] == 0


def test_rules_that_are_off_remove_nothing():
    off = {"minimum_words": None, "maximum_word_length": None, "javascript": False, "policy": False}
    assert edited(f"Javascript\nUse of cookies\n{'x' * 2000}\n!", **off)[1] == 0


def test_category_bits_follow_the_order_of_the_phrases():
    bits = [JAVASCRIPT_BIT, POLICY_BIT, LOREM_IPSUM_BIT]
    assert bits == [1 << (PHRASE_SHIFT + n) for n in range(len(PHRASES))]
    assert [*PHRASES][1:] == [POLICY, LOREM_IPSUM]


def test_without_line_removal_the_rules_judge_all_lines():
    assert [rule.signal for rule in C4(remove_lines=False).rules()][2:] == ["lines", "sentences"]
    assert [rule.signal for rule in C4().rules()][2:] == ["c4_kept_lines", "c4_kept_sentences"]
