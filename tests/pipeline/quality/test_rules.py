from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from pipeline.quality.c4 import C4
from pipeline.quality.chinese import Chinese
from pipeline.quality.encoding import Encoding
from pipeline.quality.fineweb import FineWeb
from pipeline.quality.fineweb2 import FineWeb2
from pipeline.quality.gopher import UNSPACED_LANGUAGES, GopherQuality, GopherRepetition
from pipeline.quality.language import LanguageRules
from pipeline.quality.refinedweb import RefinedWeb
from pipeline.quality.rules import RuleSet, first_failure
from pipeline.quality.signals import SIGNALS

SETS: tuple[type[RuleSet], ...] = (
    *(LanguageRules, Encoding, GopherQuality, GopherRepetition, C4),
    *(FineWeb, FineWeb2, RefinedWeb, Chinese),
)


def thresholds(rules: RuleSet, language: str = "") -> dict[str, float | None]:
    return {rule.name.partition(".")[2]: rule.threshold for rule in rules.rules(language)}


def test_published_thresholds():
    assert thresholds(GopherQuality()) == {
        "minimum_words": 50,
        "maximum_words": 100_000,
        "minimum_mean_word_length": 3,
        "maximum_mean_word_length": 10,
        "maximum_hash_to_word_ratio": 0.1,
        "maximum_ellipsis_to_word_ratio": 0.1,
        "maximum_bullet_line_fraction": 0.9,
        "maximum_ellipsis_line_fraction": 0.3,
        "minimum_alphabetic_word_fraction": 0.8,
        "minimum_stop_words": 2,
    }
    table_a1 = [0.30, 0.30, 0.20, 0.20, 0.20, 0.18, 0.16, 0.15, 0.14, 0.13, 0.12, 0.11, 0.10]
    assert [*thresholds(GopherRepetition()).values()] == table_a1
    assert [*thresholds(C4()).values()] == [0, 0, 1, 3]


@pytest.mark.parametrize("rules", SETS)
def test_every_rule_names_a_signal_its_config_field_and_its_source(rules: type[RuleSet]):
    signals = {signal.name for signal in SIGNALS} | {
        *("language_score", "other_language_fraction", "language_script_fraction")
    }
    for rule in rules().rules():
        prefix, _, field = rule.name.partition(".")
        assert prefix == rules.prefix
        assert rule.signal in signals
        assert field.startswith(rule.bound)
        assert rule.source in str(rules.model_fields[field].description)


@pytest.mark.parametrize("rules", SETS)
def test_a_config_survives_json(rules: type[RuleSet]):
    assert rules.model_validate_json(rules().model_dump_json()) == rules()


def test_overrides_of_a_recipe_are_laid_over_the_default_ones_of_the_language():
    rules = GopherQuality()
    for language in UNSPACED_LANGUAGES:
        assert thresholds(rules, language)["minimum_mean_word_length"] is None
        assert thresholds(rules, language)["maximum_hash_to_word_ratio"] == 0.1
    changed = GopherQuality(overrides={"zh": {"minimum_words": 20}, "de": {"maximum_mean_word_length": 12}})
    assert thresholds(changed, "zh") == {**thresholds(rules, "zh"), "minimum_words": 20}
    assert thresholds(changed, "de")["maximum_mean_word_length"] == 12
    assert thresholds(changed, "ja")["minimum_mean_word_length"] is None


def test_null_switches_a_rule_off_for_every_language_that_the_recipe_does_not_name():
    rules = GopherQuality(minimum_words=None, overrides={"de": {"minimum_words": 30}})
    assert [thresholds(rules, language)["minimum_words"] for language in ("", "zh", "de")] == [None, None, 30]
    rules = FineWeb2(minimum_language_score=None)
    assert thresholds(rules, "fr")["minimum_language_score"] is None
    assert thresholds(rules, "fr")["maximum_newline_word_ratio"] == 0.185


def test_only_what_the_recipe_says_is_stored_and_the_published_thresholds_are_in_the_identity():
    assert GopherQuality().overrides == {}
    assert GopherQuality().identity()["language_defaults"] != GopherRepetition().identity()["language_defaults"]
    assert GopherQuality().identity() != GopherQuality(minimum_words=40).identity()


def test_thresholds_that_contradict_those_of_a_language_are_refused():
    with pytest.raises(ValidationError, match="for language 'aai_Latn': every document"):
        FineWeb2(overrides={"aai_Latn": {"minimum_mean_word_length": 12}})
    with pytest.raises(ValidationError, match="for language 'zh'"):
        GopherQuality(minimum_words=70_000, overrides={"zh": {"maximum_words": 60}})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"minimum_word": 3}, "gopher_quality has no rule or option 'minimum_word'; did you mean 'minimum_words'"),
        ({"xyzxyz": 3}, "no rule or option 'xyzxyz' "),
        ({"minimum_words": -1}, "greater than or equal to 0"),
        ({"minimum_words": math.nan}, "finite"),
        ({"maximum_bullet_line_fraction": 90}, "less than or equal to 1"),
        (
            {"overrides": {"zh": {"minimum_word": 3}}},
            "no threshold 'minimum_word'; did you mean 'minimum_words'.* Allowed: minimum_words",
        ),
        ({"overrides": {"zh": {"maximum_bullet_line_fraction": 2}}}, "from 0 to 1"),
        ({"overrides": {"zh": 3}}, "overrides.zh"),
        ({"overrides": [1]}, "overrides"),
        ({"minimum_words": 200_000}, "above gopher_quality.maximum_words"),
        ({"overrides": {"zh": {"minimum_words": 200_000}}}, "for language 'zh'"),
    ],
)
def test_wrong_thresholds_are_refused(values: dict[str, Any], message: str):
    with pytest.raises(ValidationError, match=message):
        GopherQuality(**values)


def signals(**columns: list[Any]) -> pa.Table:
    length = max(map(len, columns.values()))
    names = [signal.name for signal in SIGNALS]
    defaults: dict[str, Any] = {name: pa.nulls(length, pa.float64()) for name in names}
    checks = {"other_language_fraction": [0.0] * length, "language_script_fraction": [1.0] * length}
    return pa.table({"language": ["en"] * length, "language_score": [1.0] * length, **checks, **defaults, **columns})


def test_values_at_the_threshold_pass_nulls_do_not_apply_and_languages_have_their_own():
    table = signals(words=[50, 49, 80, 79, None], language=["en", "en", "zh", "zh", "en"])
    found = {item.rule: item for item in GopherQuality().evaluate(table)}
    words = found["gopher_quality.minimum_words"]
    assert words.failed.tolist() == [False, True, False, True, False]
    assert words.thresholds.tolist() == [50, 50, 80, 80, 50]
    assert np.isnan(words.values[4])
    mean = found["gopher_quality.minimum_mean_word_length"]
    assert np.isnan(mean.thresholds).tolist() == [False, False, True, True, False]


def test_the_first_failing_rule_decides():
    table = signals(words=[10, 60, 60, 60], mean_word_length=[1.0, 1.0, 20.0, 5.0])
    evaluations = GopherQuality().evaluate(table)
    assert first_failure(evaluations, 4).tolist() == [0, 2, 3, -1]
    assert first_failure([], 2).tolist() == [-1, -1]


def test_empty_and_chunked_signals():
    assert [item.failed.tolist() for item in GopherQuality().evaluate(signals(words=[1])[:0])] == [[]] * 10
    chunked = pa.concat_tables([signals(words=[10]), signals(words=[50.0]).cast(signals(words=[10]).schema)])
    assert GopherQuality().evaluate(chunked)[0].failed.tolist() == [True, False]


def test_a_missing_signal_is_named():
    with pytest.raises(ValueError, match="'words'.*annotate"):
        GopherQuality().evaluate(signals(words=[1]).drop_columns(["words"]))


def test_language_rules():
    table = signals(language=["en", "fr", "zh", "en"], language_score=[0.9, 0.99, 0.5, 0.6])
    rules = LanguageRules(allowed=["en", "zh"], overrides={"zh": {"minimum_score": 0.4}})
    allowed, score, mixed, script = rules.evaluate(table)
    assert not (mixed.failed | script.failed).any()  # off by default
    assert allowed.rule == "language.allowed"
    assert allowed.failed.tolist() == [False, True, False, False]
    assert score.failed.tolist() == [False, False, False, True]
    assert not LanguageRules().evaluate(table)[0].failed.any()
    with pytest.raises(ValidationError, match="at least 1 item"):
        LanguageRules(allowed=[])
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        LanguageRules(minimum_score=65)
