"""Differences between variants: recovered where they are, and not invented where they are not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from training.comparison import Held, Scores, Settings, compare, compare_metrics, same
from training.comparison.differences import _residual
from training.comparison.scores import resampled, strata_of


def simulate(
    generator: np.random.Generator,
    effects: dict[str, float],
    seeds: int = 3,
    documents: int = 60,
    seed_error: float = 0.01,
    document_error: float = 0.02,
) -> tuple[Held, dict[str, Scores]]:
    """Held-out documents and variants whose true bits per byte differ from the reference's by `effects`."""
    text_bytes = generator.integers(200, 4000, documents).astype(np.float64)
    sources = np.where(np.arange(documents) < documents // 2, "books", "web")
    base = 2.0 + 0.3 * generator.standard_normal(documents)
    blocks = 0.02 * generator.standard_normal(seeds)
    variants = {}
    for name, effect in {"reference": 0.0, **effects}.items():
        own = document_error * generator.standard_normal(documents)  # how a variant suits a document
        nats = {}
        for seed in range(seeds):
            bits = base + own + effect + blocks[seed] + seed_error * generator.standard_normal()
            nats[seed] = bits * text_bytes * math.log(2)
        variants[name] = Scores(nats)
    return Held(text_bytes, sources), variants


def test_an_effect_is_found_with_its_sign_and_size() -> None:
    held, variants = simulate(np.random.default_rng(3), {"worse": 0.2, "better": -0.2, "equal": 0.0}, seeds=4)
    found = {(one.variant, one.group): one for one in compare(held, variants, "reference")}
    assert found["worse", ""].verdict == "worse"
    assert found["better", ""].verdict == "better"
    assert found["equal", ""].verdict == "none"
    assert found["worse", ""].low < 0.2 < found["worse", ""].high
    assert found["better", "books"].verdict == "better"
    assert found["better", "books"].documents == 30


def test_equal_variants_differ_no_more_often_than_the_level_says() -> None:
    """The family of three comparisons errs in at most 5 % of the studies; a bound of 10 % in 200 is far out of it."""
    generator = np.random.default_rng(7)
    settings = Settings(resamples=100)
    wrong = alarms = 0
    for _ in range(200):
        held, variants = simulate(generator, {"a": 0.0, "b": 0.0, "c": 0.0}, documents=40)
        overall = [one for one in compare(held, variants, "reference", settings=settings) if one.group == ""]
        wrong += any(one.verdict != "none" for one in overall)
        shifted = Scores({seed + 10: nats for seed, nats in variants["a"].nats.items()})
        alarms += same(held, variants["reference"], shifted, "control", settings).verdict != "none"
    assert wrong <= 20
    assert alarms <= 20


def test_the_error_of_seeds_is_that_of_the_analysis_of_variance() -> None:
    """Two variants: the block design is the paired t-test."""
    held, variants = simulate(np.random.default_rng(1), {"other": 0.05}, seeds=5, document_error=0.0)
    (found,) = (one for one in compare(held, variants, "reference") if one.group == "")
    bits = [list(variants[name].bits_per_byte(held).values()) for name in ("other", "reference")]
    paired = stats.ttest_rel(*bits)
    assert found.seeds_error == pytest.approx(np.std(np.subtract(*bits), ddof=1) / math.sqrt(5))
    assert found.documents_error == pytest.approx(0.0, abs=1e-12)  # documents differ by the same everywhere
    assert found.p == pytest.approx(paired.pvalue)
    interval = paired.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_the_residual_of_an_incomplete_design() -> None:
    generator = np.random.default_rng(2)
    rows = [{seed: float(generator.standard_normal()) for seed in range(4)} for _ in range(3)]
    values = np.array([list(row.values()) for row in rows])
    centred = values - values.mean(0) - values.mean(1, keepdims=True) + values.mean()
    residual, freedom = _residual(rows)
    assert freedom == 6
    assert residual == pytest.approx((centred**2).sum() / 6)
    del rows[1][2]
    assert _residual(rows)[1] == 5
    rows[0][99] = 123.0  # a seed that nobody shares explains itself
    lonely = _residual(rows)
    del rows[0][99]
    assert lonely == pytest.approx(_residual(rows))


def test_the_bootstrap_of_documents_agrees_with_the_error_of_a_mean() -> None:
    generator = np.random.default_rng(5)
    text_bytes = np.full(200, 100.0)
    nats = generator.standard_normal((1, 200)) * 100 * math.log(2)
    drawn = resampled(nats, text_bytes, 4000, generator)[:, 0]
    per_document = nats[0] / 100 / math.log(2)
    assert drawn.mean() == pytest.approx(per_document.mean(), abs=0.01)
    assert drawn.std() == pytest.approx(per_document.std() / math.sqrt(200), rel=0.05)


def test_documents_are_drawn_within_their_sources() -> None:
    """What differs between sources, and not within them, is no chance of the documents."""
    generator = np.random.default_rng(5)
    sources = np.array(["a"] * 20 + ["b"] * 20 + ["c"] * 3 + ["d"] * 2)
    strata = strata_of(sources, 8)
    assert [len(one) for one in strata] == [20, 20, 5]
    text_bytes = np.full(45, 100.0)
    nats = np.where(sources == "a", 300.0, 200.0)[None]
    assert resampled(nats, text_bytes, 50, generator, strata).std() == pytest.approx(0.0, abs=1e-12)
    assert resampled(nats, text_bytes, 50, generator).std() > 0.01


def test_few_documents_of_a_source_say_nothing() -> None:
    held, variants = simulate(np.random.default_rng(3), {"worse": 0.5}, documents=10)
    found = compare(held, variants, "reference")
    assert [one.verdict for one in found if one.group] == ["too_few", "too_few"]
    assert all(math.isnan(one.low) and one.as_json()["p"] is None for one in found if one.group)


def test_more_comparisons_make_wider_intervals() -> None:
    held, variants = simulate(np.random.default_rng(3), {"a": 0.1, "b": 0.1, "c": 0.1})
    few = compare(held, {name: variants[name] for name in ("reference", "a")}, "reference")[0]
    many = compare(held, variants, "reference")[0]
    alone, together = (stats.t.ppf(1 - 0.025 / count, one.freedom) for count, one in ((1, few), (3, many)))
    assert (few.high - few.low) / 2 == pytest.approx(alone * math.hypot(few.seeds_error, few.documents_error))
    assert (many.high - many.low) / 2 == pytest.approx(together * math.hypot(many.seeds_error, many.documents_error))


def test_metrics_are_compared_in_the_direction_that_is_better() -> None:
    generator = np.random.default_rng(9)
    values = {
        name: {arm: {seed: level + 0.001 * generator.standard_normal() for seed in range(4)} for arm, level in arms}
        for name, arms in {
            "quiz/accuracy": [("reference", 0.3), ("v", 0.5)],
            "text/bits_per_byte": [("reference", 1.0), ("v", 1.2)],
        }.items()
    }
    errors = {name: {"reference": 0.03, "v": 0.04} for name in values}
    found = compare_metrics(values, errors, "reference", lambda metric: metric.endswith("bits_per_byte"))
    assert [(one.group, one.verdict) for one in found] == [("quiz/accuracy", "better"), ("text/bits_per_byte", "worse")]
    assert found[0].documents_error == pytest.approx(0.05)
    wide = {name: {"reference": 0.3, "v": 0.4} for name in values}
    assert {one.verdict for one in compare_metrics(values, wide, "reference", lambda metric: False)} == {"none"}
    lonely = {"quiz/accuracy": {"reference": {0: 0.3, 1: 0.3}, "v": {0: 0.3}}}
    assert compare_metrics(lonely, {"quiz/accuracy": {}}, "reference", lambda metric: False) == []


def test_a_difference_no_larger_than_the_controls_is_chance() -> None:
    held, variants = simulate(np.random.default_rng(4), {"worse": 0.2}, seed_error=0.001, document_error=0.001)
    shifted = {seed: nats + 0.3 * held.text_bytes * math.log(2) for seed, nats in variants["reference"].nats.items()}
    assert same(held, variants["reference"], Scores(shifted), "control").difference == pytest.approx(0.3)
    assert [one.verdict for one in compare(held, variants, "reference", Scores(shifted))] == ["chance"] * 3
    assert [one.verdict for one in compare(held, variants, "reference")] == ["worse"] * 3
    # A control that differs in one source alone says nothing of the other.
    web = {
        seed: nats + 0.3 * held.text_bytes * math.log(2) * (held.sources == "web")
        for seed, nats in variants["reference"].nats.items()
    }
    found = {one.group: one.verdict for one in compare(held, variants, "reference", Scores(web))}
    assert (found["books"], found["web"]) == ("worse", "chance")


def test_a_difference_no_larger_than_the_controls_is_chance_in_a_task_too() -> None:
    values = {
        name: {
            "reference": {0: 0.30, 1: 0.31},
            "v": {0: 0.50, 1: 0.51},
            "again": dict.fromkeys((7, 8), 0.3 + shift),
        }
        for name, shift in (("quiz/accuracy", 0.25), ("text/accuracy", -0.1))
    }
    errors: dict[str, dict[str, float]] = {name: {} for name in values}
    found = compare_metrics(values, errors, "reference", lambda metric: False, control="again")
    assert [(one.group, one.verdict) for one in found] == [("quiz/accuracy", "chance"), ("text/accuracy", "better")]


def test_identical_trainings_do_not_differ() -> None:
    held, variants = simulate(np.random.default_rng(4), {})
    found = compare(held, {**variants, "twin": variants["reference"]}, "reference")[0]
    assert (found.difference, found.verdict, found.p) == (0.0, "none", 1.0)


def test_what_cannot_be_compared_is_named() -> None:
    held, variants = simulate(np.random.default_rng(4), {"lost": 0.0})
    lost = Scores({0: variants["lost"].nats[0]})
    with pytest.raises(ValueError, match="variant 'lost' shares 1 finished seeds with 'reference'"):
        compare(held, {**variants, "lost": lost}, "reference")
    with pytest.raises(ValueError, match="nothing to compare"):
        compare(held, {"reference": variants["reference"]}, "reference")
    broken = Scores({seed: np.full(60, np.nan) for seed in range(3)})
    with pytest.raises(ValueError, match="no numbers"):
        compare(held, {**variants, "lost": broken}, "reference")
    with pytest.raises(ValueError, match="two finished seeds"):
        same(held, variants["reference"], lost, "control")
    with pytest.raises(ValueError, match="lengths"):
        Held(np.zeros(3), np.array(["a", "b", "c"]))
