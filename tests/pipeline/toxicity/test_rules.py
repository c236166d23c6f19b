import pyarrow as pa
import pytest
from pydantic import ValidationError

from pipeline.quality.rules import first_failure
from pipeline.toxicity.rules import ToxicityRules

SIGNALS = pa.table(
    {
        "language": ["en", "en", "zh", "xx", "en"],
        "bad_words": pa.array([0, 1, 3, None, 0], pa.int64()),
        "bad_word_fraction": pa.array([0, 0.1, 0.3, None, 0], pa.float64()),
        "url_bad_words": pa.array([None, 0, 0, None, 2], pa.int64()),
        "url_categories": pa.array(["", "adult", None, "adult,gambling", "gambling"], pa.string()),
    }
)


def failures(rules: ToxicityRules, signals: pa.Table = SIGNALS) -> list[str | None]:
    evaluations = rules.evaluate(signals)
    numbers = first_failure(evaluations, signals.num_rows)
    return [None if number < 0 else evaluations[number].rule.removeprefix("toxicity.") for number in numbers]


def test_by_default_any_bad_word_removes_a_document():
    assert failures(ToxicityRules()) == [None, "maximum_bad_words", "maximum_bad_words", None, None]


def test_blocked_categories_come_first():
    blocked = "blocked_categories"
    assert failures(ToxicityRules(blocked_categories=["adult"])) == [None, blocked, "maximum_bad_words", blocked, None]
    (first, *_) = ToxicityRules(blocked_categories=["gambling", "dating"]).evaluate(SIGNALS)
    assert first.values[[0, 1, 3, 4]].tolist() == [0, 0, 1, 1]
    assert first.failed.tolist() == [False, False, False, True, True]  # no URL: not measured, not failed
    assert (first.signal, first.bound, first.rule) == ("url_categories", "maximum", "toxicity.blocked_categories")


def test_thresholds_by_language_and_in_the_place_of_each_other():
    rules = ToxicityRules(maximum_bad_words=None, maximum_bad_word_fraction=0.05, overrides={
        "zh": {"maximum_bad_word_fraction": 0.5}, "en": {"maximum_url_bad_words": 1},
    })  # fmt: skip
    assert failures(rules) == [None, "maximum_bad_word_fraction", None, None, "maximum_url_bad_words"]


def test_only_the_signals_of_rules_that_are_on_are_needed():
    words = SIGNALS.drop_columns(["url_categories", "url_bad_words", "bad_word_fraction"])
    assert failures(ToxicityRules(), words)[1] == "maximum_bad_words"
    urls = SIGNALS.select(["language", "url_categories"])
    assert (
        failures(ToxicityRules(maximum_bad_words=None, blocked_categories=["adult"]), urls)[1] == "blocked_categories"
    )
    with pytest.raises(ValueError, match="no column 'bad_words'"):
        ToxicityRules().evaluate(urls)
    with pytest.raises(ValueError, match="no column 'url_categories'"):
        ToxicityRules(blocked_categories=["adult"]).evaluate(words)
    with pytest.raises(ValueError, match="no column 'url_bad_words'"):
        ToxicityRules(overrides={"en": {"maximum_url_bad_words": 1}}).evaluate(words)


def test_no_documents_and_no_urls():
    assert failures(ToxicityRules(blocked_categories=["adult"]), SIGNALS.slice(0, 0)) == []
    nothing = SIGNALS.select(["language", "bad_words"]).append_column("url_categories", pa.nulls(5, pa.string()))
    assert "blocked_categories" not in failures(ToxicityRules(blocked_categories=["adult"]), nothing)


def test_settings_are_checked():
    for settings in ({"blocked_categories": []}, {"maximum_bad_words": -1}, {"maximum_bad_word_fraction": 2}, {"x": 1}):
        with pytest.raises(ValidationError):
            ToxicityRules(**settings)
