from __future__ import annotations

import gzip
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.quality.characters import (
    CONTINUES,
    FUNCTION,
    GARBLED,
    RARE,
    SIMPLIFIED,
    TRADITIONAL,
    UPPER,
    character_marks,
)
from pipeline.quality.chinese import CHINESE, Chinese
from pipeline.quality.encoding import Encoding
from pipeline.quality.lines import Lines, line_rules
from pipeline.quality.signals import measure
from tests.pipeline.text import reference

TEXTS = Path(__file__).parents[3] / "../shared/data/zh/fewclue_texts.jsonl.gz"
PROSE = "今天天气很好，我们一起去公园散步吧。那里的花都开了，孩子们在草地上跑来跑去，老人坐在树下说着过去的事。"


def table(texts: list[str], language: str = "zh") -> pa.Table:
    found = measure(pa.array(texts, pa.large_string()), [language] * len(texts), line_rules(Lines()))
    return found.append_column("language", pa.array([language] * len(texts)))


def signals(text: str) -> dict[str, Any]:
    return table([text]).to_pylist()[0]


def failures(text: str, language: str = "zh") -> set[str]:
    row = table([text], language)
    found = [item for rules in (Chinese(), Encoding()) for item in rules.evaluate(row)]
    return {item.rule.partition(".")[2] for item in found if item.failed[0]}


def test_marks_of_characters():
    marks = character_marks()
    expected = {"国": SIMPLIFIED, "國": TRADITIONAL, "人": 0, "鿿": RARE, "的": FUNCTION, "们": FUNCTION | SIMPLIFIED}
    expected |= {"Ж": UPPER, "Ⓐ": UPPER, "\ufffd": GARBLED, "\ue000": GARBLED, "\U00100000": GARBLED, "\x85": CONTINUES}
    mask = UPPER | SIMPLIFIED | TRADITIONAL | RARE | FUNCTION | GARBLED | CONTINUES
    for char, mark in expected.items():
        assert marks[ord(char)] & mask == mark, char
    assert np.count_nonzero(marks & SIMPLIFIED) + np.count_nonzero(marks & TRADITIONAL) > 8000
    assert not np.any((marks & SIMPLIFIED != 0) & (marks & TRADITIONAL != 0))


def test_simplified_and_traditional():
    assert signals("国家发展")["simplified_fraction"] == 0.5
    assert signals("國家發展")["traditional_fraction"] == 0.5


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("锟斤拷锟斤拷", 6),
        ("烫烫烫烫屯屯屯", 7),
        ("烫烫屯屯", 0),
        ("天气".encode().decode("gbk"), 3),
        ("café’s".encode().decode("cp1252"), 5),
        ("café".encode().decode("latin1"), 2),
        ("，".encode().decode("latin1"), 3),
        ("café naïve Ünü «\xa0voilà\xa0» l’été", 0),
        ("a\x00b\x1fc\x7f", 2),
        ("\ufffd\ue000\x92", 3),
        ("tab\there\x85", 0),
    ],
)
def test_garbled_characters(text: str, count: int):
    assert signals(text)["garbled_fraction"] == pytest.approx(count / len(text)) == reference.garbled(text) / len(text)


def test_prose_passes_and_what_is_none_does_not():
    text = PROSE * 5
    assert failures(text) == set()
    assert failures(PROSE[:30]) == {"minimum_characters"}
    assert failures(text.encode().decode("gbk", "replace")) >= {
        "maximum_garbled_fraction",
        "maximum_rare_han_fraction",
        "minimum_function_character_fraction",
    }
    assert failures(text.encode().decode("cp1252", "replace")) >= {"maximum_garbled_fraction", "minimum_han_fraction"}
    assert failures("手机壳 充电器 数据线 耳机 音箱 键盘 鼠标 显示器 " * 20) == {
        "minimum_function_character_fraction",
        "minimum_punctuation_fraction",
    }
    assert failures("公园\n天气\n花草\n" * 100) >= {"minimum_mean_line_length"}
    assert failures("。，、！" * 100) >= {"maximum_punctuation_fraction", "minimum_han_fraction"}


def test_other_languages_pass_and_may_be_named():
    assert Chinese.languages == CHINESE
    assert failures("short", "en") == set()
    rules = Chinese(overrides={"ja": {"minimum_han_fraction": 0.1}})
    found = {rule.name: rule.threshold for rule in rules.rules("ja")}
    assert found["chinese.minimum_han_fraction"] == 0.1
    assert found["chinese.minimum_characters"] is None


def test_published_thresholds():
    found = {rule.name.partition(".")[2]: rule.threshold for rule in Chinese().rules("zh")}
    published = ("minimum_characters", "minimum_mean_line_length", "minimum_han_fraction")
    assert [found[name] for name in published] == [201, 10, 0.3]


@pytest.mark.skipif(not TEXTS.is_file(), reason="the Chinese texts of FewCLUE are not on this machine")
def test_real_text_passes_and_mojibake_made_of_it_does_not():
    with gzip.open(TEXTS, "rt", encoding="utf-8") as stream:
        lines = [json.loads(line)["text"] for line in itertools.islice(stream, 8000)]
    passages = ["\n".join(lines[n : n + 20]) for n in range(0, len(lines), 20)]
    rules: list[Any] = [Chinese(), Encoding()]
    wrong = [passage.encode().decode("gbk", "replace") for passage in passages]
    wrong += [passage.encode().decode("cp1252", "replace") for passage in passages]
    failed = [
        np.any([item.failed for rule_set in rules for item in rule_set.evaluate(table(texts))], axis=0)
        for texts in (passages, wrong)
    ]
    assert failed[0].mean() < 0.02
    assert failed[1].all()
    garbled = table(wrong)["garbled_fraction"].to_numpy()
    assert garbled.min() > 0.3
