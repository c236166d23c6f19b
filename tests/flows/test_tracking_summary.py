"""What is said at the end of a run, for every kind of model: its numbers beside those of its baselines."""

from __future__ import annotations

from typing import Any

from flows.tracking import _measured, _score_rows, result_line
from pipeline.report.scores import main_scores, objective_scores, task_scores


def grouped(value: float) -> dict[str, Any]:
    facts = {"value": value, "count": 100}
    return {"overall": facts, "sources": {"wiki": facts}, "languages": {"en": facts}}


MASKED: dict[str, Any] = {
    "evaluation": {"objective": "masked", "text_score": "pseudo_log_likelihood"},
    "objective": {"masked_accuracy": grouped(0.312), "loss": grouped(3.25), "masked_loss": grouped(3.0)},
    "baselines": {"masked_accuracy": {"unigram": grouped(0.051)}, "masked_loss": {"unigram": grouped(6.0)}},
    "pseudo_perplexity": {
        name: {"overall": {"perplexity": value, "bits_per_byte": None}}
        for name, value in (("model", 20.0), ("unigram", 400.0))
    },
    "minimal_pairs": {},
}


def causal() -> dict[str, Any]:
    def facts(loss: float) -> dict[str, Any]:
        return {"overall": {"loss": loss, "perplexity": 2.0, "bits_per_byte": loss / 3}}

    return {"evaluation": {}, "perplexity": {"model": facts(3.0), "unigram": facts(6.0)}, "minimal_pairs": {}}


def test_a_causal_model_is_told_by_its_loss() -> None:
    facts = _measured(causal())
    assert result_line(facts) == "validation loss [bold]3.000, unigram 6.000[/] nats per token, 1.000 bits per byte"
    assert facts["validation_loss"] == {"model": 3.0, "unigram": 6.0}
    assert _score_rows(facts)[-1] == ("bits per byte", "1.0000")
    assert main_scores({}) == [] == objective_scores(causal())


def test_another_model_is_told_by_its_objective_and_no_perplexity_is_missed() -> None:
    facts = _measured(MASKED)
    assert result_line(facts) == (
        "loss 3.250; masked accuracy 0.312 (unigram 0.051); pseudo perplexity 20.0 (unigram 400.0)"
    )
    assert facts["bits_per_byte"] is None
    assert ("masked accuracy, unigram", "0.0510") in _score_rows(facts)


def test_tasks_stand_beside_what_knows_less() -> None:
    one = {"spearman": 0.5}
    results = {
        "similarity": {"sts": {"mean": one, "bag_of_words": {"spearman": 0.3}, "untrained_mean": {"spearman": 0.2}}},
        "choices": {"quiz": {"sum": {"accuracy": 0.6}, "baselines": {"chance": 0.25}}},
    }
    told = [(name, score.told()) for name, score in task_scores(results)]
    assert told[0] == ("sts", "spearman: mean 0.500 (bag of words 0.300, untrained mean 0.200)")
    assert told[1] == ("quiz", "choice accuracy 0.600 (chance 0.250)")
