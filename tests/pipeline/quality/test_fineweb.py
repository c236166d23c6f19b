from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from pipeline.quality.c4 import C4Lines
from pipeline.quality.fineweb import TERMINAL_MARKS, FineWeb
from pipeline.quality.fineweb2 import FineWeb2, published_thresholds
from pipeline.quality.lines import Lines, line_rules
from pipeline.quality.rules import RuleSet
from pipeline.quality.signals import SIGNALS, measure
from tests.pipeline.text import reference


def signals(text: str) -> dict[str, Any]:
    return measure(pa.array([text]), ["en"], line_rules(Lines(c4=C4Lines()))).to_pylist()[0]


def thresholds(rules: RuleSet, language: str) -> dict[str, float | None]:
    return {rule.name.partition(".")[2]: rule.threshold for rule in rules.rules(language)}


def test_sentence_terminators():
    assert len(TERMINAL_MARKS) == len({*TERMINAL_MARKS}) == 159
    assert {*reference.SENTENCE_ENDS} <= {*TERMINAL_MARKS}
    assert not {*TERMINAL_MARKS} & {*"…:;,\"')»」”"}


def test_whole_lines_end_and_repeat_as_they_stand():
    text = "One sentence.\r\nAnother. \n\n  \nOne sentence.\n One sentence.\n完。"
    row = signals(text)
    assert row["lines"] == 5
    assert row["fineweb_terminal_line_fraction"] == pytest.approx(4 / 5)  # not where white space follows
    assert row["fineweb_duplicate_line_character_fraction"] == pytest.approx(13 / (len(text) - 6))
    assert row["fineweb_newline_word_ratio"] == pytest.approx(6 / (8 + 5))  # words and punctuation marks


def test_thirty_characters_are_short():
    assert signals("x" * 30 + "\n" + "y" * 31)["fineweb_short_line_fraction"] == 0.5
    assert signals(" " + "字" * 29 + "\n" + " " + "字" * 30)["fineweb_short_line_fraction"] == 0.5


def test_published_thresholds():
    assert thresholds(FineWeb(), "en") == {
        "minimum_terminal_line_fraction": 0.12,
        "maximum_short_line_fraction": 0.67,
        "maximum_duplicate_line_character_fraction": 0.01,
        "maximum_newline_word_ratio": 0.3,
    }


def test_texts_without_sentences_may_pass():
    table = pa.table(
        {"language": ["en"] * 3, **{signal.name: [0.0, 0.1, 0.2] for signal in SIGNALS if signal.type == pa.float64()}}
    )
    assert FineWeb().evaluate(table)[0].failed.tolist() == [True, True, False]
    assert FineWeb(pass_without_terminal_lines=True).evaluate(table)[0].failed.tolist() == [False, True, False]


def test_fineweb2_of_french():
    found = thresholds(FineWeb2(), "fra_Latn")
    assert found == thresholds(FineWeb2(), "fr")
    assert found["minimum_language_score"] == 0.824
    assert found["maximum_duplicate_line_fraction"] == 0.264
    assert [found[f"maximum_top_{n}_gram_character_fraction"] for n in (2, 3, 4)] == [0.161, 0.149, 0.134]
    duplicates = [found[f"maximum_duplicate_{n}_gram_character_fraction"] for n in range(5, 11)]
    assert duplicates == [0.15, 0.141, 0.131, 0.121, 0.111, 0.1]
    assert found["minimum_terminal_line_fraction"] == 0.1
    assert found["maximum_duplicate_line_character_fraction"] == 0.1
    assert found["maximum_newline_word_ratio"] == 0.185
    assert (found["minimum_mean_word_length"], found["maximum_mean_word_length"]) == (2, 11)
    assert found["minimum_alphabetic_token_fraction"] == 0.812
    assert (found["minimum_words"], found["maximum_words"], found["minimum_stop_words"]) == (50, 100_000, 2)


def test_fineweb2_of_chinese_counts_characters():
    found = thresholds(FineWeb2(), "zh")
    assert found == thresholds(FineWeb2(), "cmn_Hani")
    assert found["minimum_language_score"] == 0.692
    assert [found[f"maximum_top_{n}_gram_character_fraction"] for n in (2, 3, 4)] == [None, 0.256, 0.256]
    duplicates = [found[f"maximum_duplicate_{n}_gram_character_fraction"] for n in range(5, 11)]
    assert duplicates == [None, None, None, 0.198, 0.198, 0.182]
    assert found["maximum_newline_word_ratio"] == pytest.approx(0.178 / 1.6, abs=1e-4)
    assert found["minimum_words"] == 80
    assert found["maximum_mean_word_length"] is None


def test_rules_that_nothing_can_break_are_off():
    assert thresholds(FineWeb2(), "aai_Latn")["minimum_terminal_line_fraction"] is None  # -1 in the table
    assert thresholds(FineWeb2(), "tha_Thai")["minimum_terminal_line_fraction"] is None  # 0
    assert thresholds(FineWeb2(), "tha_Thai")["minimum_language_score"] == 0.9


def test_the_table_has_every_language_and_only_thresholds_that_a_recipe_could_set():
    table = published_thresholds()
    assert sum("_" in language for language in table) == 1929
    names = {*FineWeb2.signal_of()}
    by_size = {len(values) for values in table.values()}
    assert by_size == {16, 18}  # unspaced scripts have the number of words too
    for language, values in table.items():
        assert {*values} <= names
        assert all(value is None or value >= 0 for value in values.values()), language
        assert all(value is None or value <= 1 or "fraction" not in name for name, value in values.items()), language
    FineWeb2(overrides={language: dict(values) for language, values in table.items()})
    assert len({id(table[code]) for code in ("de", "deu_Latn")}) == 1
    assert table["als"] is table["gsw_Latn"]  # lid.176 calls Alemannic what ISO 639-3 calls Tosk
    assert table["sq"] is table["als_Latn"]


def test_only_what_differs_is_stored_and_construction_is_quick():
    assert FineWeb2().model_dump()["overrides"] == {}
    changed = FineWeb2(overrides={"de": {"minimum_language_score": 0.5}})
    assert changed.model_dump()["overrides"] == {"de": {"minimum_language_score": 0.5}}
    assert thresholds(changed, "de") == {**thresholds(FineWeb2(), "de"), "minimum_language_score": 0.5}
    assert FineWeb2.model_validate_json(changed.model_dump_json()) == changed
    assert len(str(changed.identity())) < 2000


def test_the_score_of_a_language_is_a_rule():
    names = ["language_score", *(signal.name for signal in SIGNALS)]
    table = pa.table({"language": ["en", "fr", "fr", "xx"], **{name: pa.nulls(4, pa.float64()) for name in names}})
    table = table.set_column(1, "language_score", pa.array([0.7, 0.7, 0.9, 0.6]))
    score = FineWeb2().evaluate(table)[0]
    assert score.thresholds.tolist() == [0.65, 0.824, 0.824, 0.65]
    assert score.failed.tolist() == [False, True, False, True]
