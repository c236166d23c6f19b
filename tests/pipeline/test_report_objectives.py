"""The page of a model that is no causal one: its metrics beside their baselines, and nothing that is missing."""

from __future__ import annotations

from typing import Any

from pipeline.report.facts import CorpusFacts, Facts, ModelFacts
from pipeline.report.headline import figures, story
from pipeline.report.model import evaluation_section, samples_section


def grouped(value: float) -> dict[str, Any]:
    facts = {"value": value, "count": 1234}
    return {"overall": facts, "sources": {"<wiki>": facts}, "languages": {"zh": facts}}


def page(**results: Any) -> str:
    facts = Facts("run", {}, {}, CorpusFacts(), ModelFacts(results=results), {})
    return "".join(
        str(part) for part in (figures(facts), story(facts), evaluation_section(facts), samples_section(facts))
    )


MASKED: dict[str, Any] = {
    "checkpoint": {"parameters": 4_000_000},
    "evaluation": {"text_score": "pseudo_log_likelihood"},
    "objective": {"loss": grouped(3.25), "masked_accuracy": grouped(0.312), "sentence_accuracy": grouped(0.77)},
    "baselines": {
        "loss": {"unigram": grouped(6.5)},
        "masked_accuracy": {"unigram": grouped(0.051)},
        "sentence_accuracy": {"majority": grouped(0.53)},
    },
    "minimal_pairs": {},
    "samples": [
        {"prompt": "The ____ saw.", "answer": "man", "continuation": "king (0.52)", "tokens": 1, "finished": True}
    ],
}


def test_metrics_stand_beside_their_baselines() -> None:
    text = page(**MASKED)
    for wanted in (
        "masked accuracy",
        "0.312",
        "unigram 0.051",
        "majority 0.530",
        "3.25 below a unigram model",
        "1,234",
    ):
        assert wanted in text
    for wanted in (
        "By source",
        "&lt;wiki&gt;",
        "Chinese",
        "king (0.52)",
        "in the text: ",
        "Held-out sentences, shaded",
    ):
        assert wanted in text
    for missing in ("Perplexity", "Bits per byte", "Pseudo-perplexity", "Tasks"):
        assert missing not in text


def test_tasks_and_pseudo_perplexity_are_shown() -> None:
    facts = {"loss": 3.0, "perplexity": 20.5, "bits_per_byte": None, "tokens": 900, "sentences": 42}
    spearman = {"spearman": 0.61, "alignment": None, "uniformity": -1.0, "pairs": 9}
    text = page(
        **MASKED,
        pseudo_perplexity={"model": {"overall": facts}, "unigram": {"overall": {**facts, "perplexity": 410.0}}},
        similarity={"stsb": {"mean": spearman, "bag_of_words": {**spearman, "spearman": 0.44}}},
    )
    for wanted in (
        "Pseudo-perplexity",
        "20.5",
        "410.0",
        "42 held-out sentences",
        "stsb",
        "0.610",
        "bag of words 0.440",
    ):
        assert wanted in text


def test_a_model_without_samples_or_pairs_is_shown() -> None:
    text = page(objective={"alignment": grouped(0.2)}, baselines={"alignment": {"untrained": grouped(0.4)}}, samples=[])
    assert "untrained 0.400" in text
    assert "Minimal pairs" not in text
