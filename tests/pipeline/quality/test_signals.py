from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.quality.c4 import C4Lines
from pipeline.quality.counting import count_batch
from pipeline.quality.gopher import UNSPACED_LANGUAGES
from pipeline.quality.lines import Lines, _remove_lines, line_rules, remove_lines
from pipeline.quality.refinedweb import RefinedWebLines
from pipeline.quality.signals import SIGNALS, measure
from pipeline.quality.stopwords import STOP_WORDS
from pipeline.text.records import scan_document
from pipeline.text.scan import word_hashes
from tests.pipeline.text import reference
from tests.pipeline.text.strategies import arrays, texts

SENTENCES = Path(__file__).parents[3] / "../shared/data/lid/lingua_sentences_75lang.jsonl.gz"
LANGUAGES = ("en", "zh", "ja", "xx", None)
RULES: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
    ({}, {}),
    (
        {"minimum_words": 2, "maximum_word_length": 20, "terminal_punctuation": True},
        {"maximum_uppercase_fraction": 0.25, "numeric": False, "short_line_words": 3, "phrases": ("word", "的", "(")},
    ),
    (
        {"minimum_words": 1, "javascript": False, "policy": False},
        {"minimum_words": None, "counters": (), "prefixes": ("a", "the", "世"), "suffixes": ("...", "six", "é", ".")},
    ),
)


def signals(text: str, language: str | None = "en", **rules: Any) -> dict[str, Any]:
    return measure(pa.array([text]), [language], line_rules(Lines(c4=C4Lines(**rules)))).to_pylist()[0]


@given(st.lists(texts, min_size=1, max_size=8), st.sampled_from(LANGUAGES), st.sampled_from(RULES))
@settings(max_examples=150, deadline=None)
def test_every_signal_is_that_of_the_plain_statement(batch: list[str], language: str | None, rules: Any):
    c4, refined = rules
    config = Lines(c4=C4Lines(**c4), refinedweb=RefinedWebLines(**refined))
    found = measure(pa.array(batch, pa.large_string()), [language] * len(batch), line_rules(config))
    stop_words = list(STOP_WORDS[language]) if language in STOP_WORDS else None
    for text, row in zip(batch, found.to_pylist(), strict=True):
        row.pop("script")
        expected = reference.signals(text, stop_words, refined, **c4)
        assert row.keys() == expected.keys()
        for name, value in expected.items():
            assert row[name] == pytest.approx(value, abs=1e-9), (name, text)


@given(arrays())
@settings(max_examples=50, deadline=None)
def test_any_array_gives_the_signals_of_its_texts(array: pa.Array | pa.ChunkedArray):
    rules = line_rules(Lines())
    found = measure(array, ["en"] * len(array), rules)
    assert found.schema.names == [signal.name for signal in SIGNALS]
    assert found.to_pylist() == [signals(text or "") for text in array.to_pylist()]


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("Hello, мир и война", "Cyrillic"),
        ("漢字 or かなかな", "Hiragana"),
        ("ab 世界", "Latin"),
        ("12 + 3", "Common"),
        ("", "Common"),
    ],
)
def test_script_of_most_letters(text: str, script: str):
    assert signals(text)["script"] == script


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("One. Two! Three? Four", 4),
        ("It costs 3.14 dollars, e.g. today, at 5 p.m. or so.", 1),
        ('He said "No." She left. (All of them did.) End', 4),
        ("今天天气很好。我们去公园吧！好吗？", 3),
        ("「はい。」と言った。終わり", 3),
        ("... * ... !!!", 0),
        ("No full stop\nhere or\n\nthere", 3),
        ("मैं घर जाता हूँ। वह आता है।", 2),
    ],
)
def test_sentences(text: str, count: int):
    assert signals(text)["sentences"] == sum(map(reference.sentences, reference.lines(text))) == count


@pytest.mark.parametrize(("text", "count"), [("a..", 0), ("a....", 1), ("a......", 2), ("a.. .", 0), ("a … b...", 2)])
def test_ellipses(text: str, count: int):
    row = signals(text)
    assert row["ellipsis_to_word_ratio"] * row["words"] == count


def test_phrases_are_whole_words_in_one_line():
    assert signals("Lorem\nipsum")["lorem_ipsum_lines"] == 0
    assert signals("So: LOREM,  ipsum dolor")["lorem_ipsum_lines"] == 1
    line = "we {} here and there you see\nnothing but a line of words"
    for phrase in ("use cookies", "USE of  Cookies", "privacy-policy", "terms of use of use", "Javascript"):
        assert signals(line.format(phrase))["c4_removed_lines"] == 1, phrase
    for phrase in ("use the cookies", "privacy. A policy", "reuse cookies", "javascripts", "cookie"):
        assert signals(line.format(phrase))["c4_removed_lines"] == 0, phrase


def test_large_and_strange_documents():
    word = signals("x" * 5_000_000)
    assert (word["words"], word["mean_word_length"], word["c4_removed_lines"]) == (1, 5_000_000, 1)
    cycle = signals("a b c\n\n" * 100_000)
    assert cycle["duplicate_paragraph_fraction"] == pytest.approx(1 - 1e-5)
    assert cycle["top_2_gram_character_fraction"] == pytest.approx(3 / 7)
    assert signals("\n" * 100_000)["lines"] == 0
    assert signals("\x00" * 1000)["words"] == 0
    assert measure(pa.array([], pa.string()), [], line_rules(Lines())).num_rows == 0
    assert measure(pa.chunked_array([], pa.string()), [], line_rules(Lines())).num_rows == 0


def test_bytes_that_are_not_utf8_stay_in_bounds():
    random = np.random.default_rng(3)
    for size in (1, 2, 3, 64, 4096):
        data = random.integers(0, 256, size, np.uint8)
        offsets = pa.py_buffer(np.array([0, size - size // 2, size], np.int64))
        array = pa.Array.from_buffers(pa.large_string(), 2, [None, offsets, pa.py_buffer(data)])
        rules = line_rules(Lines(refinedweb=RefinedWebLines(minimum_words=None, numeric=False, phrases=("a", "\x7f"))))
        found = measure(array, ["en", "en"], rules)
        edited = remove_lines(array, rules)
        left = edited.texts.cast(pa.large_binary()).to_pylist()
        pieces = [size - size // 2, size // 2]
        assert [len(text) for text in left] == [*(pieces - edited.removed_bytes.sum(axis=1))]
        assert (edited.removed_bytes >= 0).all()
        assert found["text_bytes"].to_pylist() == [size - size // 2, size // 2]
        assert max(found["characters"].to_pylist()) <= size


@pytest.mark.parametrize("language", sorted(STOP_WORDS))
def test_every_list_of_stop_words_is_found_and_long_enough(language: str):
    words = STOP_WORDS[language]
    assert len(words) >= 8
    assert signals(" ".join(words), language)["stop_words"] == len(words)
    assert signals("zzz", language)["stop_words"] == 0


@pytest.mark.skipif(not SENTENCES.is_file(), reason="the sentences of lingua are not on this machine")
def test_passages_of_50_words_have_two_stop_words():
    by_language: dict[str, list[str]] = {}
    with gzip.open(SENTENCES, "rt", encoding="utf-8") as stream:
        for row in map(json.loads, stream):
            by_language.setdefault(row["lang"], []).append(row["text"])
    languages = sorted({*by_language} & {*STOP_WORDS})
    assert len(languages) > 20
    for language in languages:
        need = 80 if language in UNSPACED_LANGUAGES else 50
        passages, words = [""], 0
        counts = np.diff(word_hashes(pa.array(by_language[language]))[0]).tolist()
        for text, count in zip(by_language[language], counts, strict=True):
            passages[-1] += f" {text}"
            words += count
            if words >= need:
                passages.append("")
                words = 0
        passages.pop()
        found = measure(pa.array(passages), [language] * len(passages), line_rules(Lines()))["stop_words"].to_pylist()
        assert len(passages) > 50
        assert np.mean([count >= 2 for count in found]) >= 0.98, language


def test_the_published_english_stop_words():
    assert {*STOP_WORDS["en"]} == {"the", "be", "to", "of", "and", "that", "have", "with"}


def test_one_compiled_version_of_each_kernel():
    signals("a b")
    measure(
        pa.array(["a", None], pa.string())[1:],
        ["zz"],
        line_rules(Lines(c4=C4Lines(minimum_words=None, javascript=False))),
    )
    for kernel in (count_batch, _remove_lines, scan_document):
        assert len(kernel.signatures) <= 1
