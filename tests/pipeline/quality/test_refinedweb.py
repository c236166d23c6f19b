from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from pipeline.quality.lines import Lines, line_rules, remove_lines
from pipeline.quality.refinedweb import COUNTERS, RefinedWebLines
from pipeline.quality.signals import measure


def refined(line: str, **rules: Any) -> str:
    """The line after the rules; empty where it goes."""
    config = Lines(refinedweb=RefinedWebLines(**rules))
    return remove_lines(pa.array([line]), line_rules(config), ["refinedweb"]).texts.to_pylist()[0]


@pytest.mark.parametrize(
    "line",
    [
        "SHARE THIS PAGE now",
        "ДОБРО ПОЖАловать",
        "2024",
        "٣٤٥",
        "Menu",
        "-----",
        "3 likes",
        "  3,000 Likes! ",
        "1.2K views",
        "•  12 comments  •",
        "5m FOLLOWERS",
        "items in cart",
        "Sign-in",
        "Items in cart  Items in cart",
        "Sign-in read more...",
    ],
)
def test_lines_that_go(line: str):
    assert refined(line) == ""


@pytest.mark.parametrize(
    "line",
    [
        "NASA and ESA said so",
        "AB cd",  # half of the letters of a line, and less than half of its characters
        "20 24",
        "two words",
        "3 likes a day",
        "He has 3 likes",
        "3likes it",
        "a3 likes",
        "3 dislikes",
        "3,000 people",
        "You can sign-in here",
        "Read more... and more",
        "We put all of the nine or ten items in cart of them",
        "今天天气很好",
    ],
)
def test_lines_that_stay(line: str):
    assert refined(line) == line


@pytest.mark.parametrize(
    ("line", "rest"),
    [
        ("You have 7 items in cart right now", "You have 7 right now"),
        ("Sign-in for full access", "for full access"),
        ("The news of today READ MORE...", "The news of today"),
        ("  sign-in  to see 2 Items in Cart, read more...", "   to see 2,"),
        ("9 items in cart\u3000items in cart of ours", "9 of ours"),
    ],
)
def test_phrases_are_cut_out_of_short_lines(line: str, rest: str):
    assert refined(line) == rest


@pytest.mark.parametrize("counter", COUNTERS)
def test_every_counter_of_dclm(counter: str):
    text = f"3 {counter}\n3,000 {counter}\n123K {counter}!\n 5.1M   {counter}  \nThis line does not contain a counter."
    assert refined(text) == "This line does not contain a counter."


def test_own_lists():
    assert refined("3 个赞", counters=("个赞",)) == ""
    assert refined("点击阅读全文", minimum_words=None, suffixes=("阅读全文",)) == "点击"
    assert refined("Sign-in HERE 3 LIKES", maximum_uppercase_fraction=None, prefixes=()) == "Sign-in HERE 3 LIKES"


@pytest.mark.parametrize("phrase", ["", " ", " a", "a\nb", "a "])
def test_phrases_that_no_line_can_have_are_refused(phrase: str):
    with pytest.raises(ValidationError, match="cannot be looked for"):
        RefinedWebLines(phrases=(phrase,))


def test_the_words_that_a_document_loses():
    text = "Menu\nYou have 7 items in cart right now\n" + "word " * 90
    row = measure(pa.array([text]), ["en"], line_rules(Lines())).to_pylist()[0]
    assert (row["refinedweb_removed_lines"], row["refinedweb_cut_lines"]) == (1, 1)
    assert row["refinedweb_removed_words"] == 4
    assert row["refinedweb_removed_word_fraction"] == pytest.approx(4 / 99)
