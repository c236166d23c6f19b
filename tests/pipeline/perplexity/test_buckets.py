from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.perplexity.buckets import STEPS, PerplexityRules, buckets, cut_points, quantiles
from pipeline.quality.rules import first_failure


def test_buckets_by_language():
    values = pa.chunked_array([[10.0, 20.0, 30.0], [31.0, None, 5.0, 5.0]])
    languages = pa.chunked_array([["en", "en", "en", "en", "en"], ["xx", "zh"]])
    found = buckets(values, languages, {"en": (20.0, 30.0), "zh": (1.0, 6.0)})
    assert found.to_pylist() == ["head", "middle", "tail", "tail", None, None, "middle"]
    assert buckets(pa.array([1.0]), pa.array([None], pa.string()), {}).to_pylist() == [None]
    assert buckets(pa.array([], pa.float64()), pa.array([], pa.string()), {}).to_pylist() == []


@given(st.lists(st.floats(1, 1e9), min_size=1, max_size=200), st.randoms())
def test_quantiles_are_exact_and_do_not_depend_on_the_order(values, chosen):
    found = quantiles(np.array(values))
    chosen.shuffle(values)
    assert quantiles(np.array(values)) == found
    assert len(found) == STEPS + 1
    assert (found[0], found[-1]) == (min(values), max(values))
    assert found[667] == pytest.approx(np.percentile(values, 66.7))


def test_three_even_parts():
    values = np.random.default_rng(0).lognormal(5, 1, 3000)
    summary = {"languages": {"en": {"quantiles": quantiles(values)}, "fr": {"quantiles": quantiles(values[:0])}}}
    cuts = PerplexityRules().cuts(summary)
    assert [*cuts] == ["en"]
    found = buckets(pa.array(values), pa.array(["en"] * 3000), cuts)
    shares = {name: found.to_pylist().count(name) for name in ("head", "middle", "tail")}
    assert all(abs(count - 1000) <= 2 for count in shares.values())
    assert cut_points(summary, 0, 100)["en"] == (values.min(), values.max())
    ccnet = PerplexityRules(head_percentile=30, tail_percentile=60).cuts(summary)["en"]
    assert ccnet == pytest.approx((np.percentile(values, 30), np.percentile(values, 60)))


def table(**columns) -> pa.Table:
    return pa.table({"language": pa.array(["en"] * 4), **columns})


def test_rules_decide():
    signals = table(
        perplexity=pa.array([1.0, 500.0, None, 50.0]),
        perplexity_bucket=pa.array(["head", "tail", None, "middle"]),
    )
    assert first_failure(PerplexityRules().evaluate(signals), 4).tolist() == [-1, 0, -1, -1]
    assert first_failure(PerplexityRules(buckets=["head"]).evaluate(signals), 4).tolist() == [-1, 0, -1, 0]
    limited = PerplexityRules(buckets=None, maximum_perplexity=49).evaluate(signals)
    assert first_failure(limited, 4).tolist() == [-1, 1, -1, 1]
    assert [evaluation.rule for evaluation in limited] == ["perplexity.buckets", "perplexity.maximum_perplexity"]
    overridden = PerplexityRules(overrides={"en": {"maximum_perplexity": 400}})
    assert first_failure(overridden.evaluate(signals), 4).tolist() == [-1, 0, -1, -1]
    all_null = table(perplexity=pa.nulls(4, pa.float64()), perplexity_bucket=pa.nulls(4, pa.string()))
    assert first_failure(PerplexityRules(maximum_perplexity=1).evaluate(all_null), 4).tolist() == [-1] * 4


def test_rules_that_make_no_sense():
    with pytest.raises(ValidationError, match="buckets"):
        PerplexityRules(buckets=["heads"])
    with pytest.raises(ValidationError, match="buckets"):
        PerplexityRules(buckets=[])
    with pytest.raises(ValidationError, match="steps of 0.1"):
        PerplexityRules(head_percentile=33.33)
    with pytest.raises(ValidationError, match="is above tail_percentile"):
        PerplexityRules(head_percentile=70)
    with pytest.raises(ValueError, match="perplexity_bucket"):
        PerplexityRules().evaluate(table())
