"""When the stage of marks is in the plan, and what then follows from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from flows.plan import Plan, make_plan
from pipeline.stage import CORPUS_STAGES
from tests.flows.tiny import recipe, write_corpus

# A model and objective that the marks are for: whole words are masked.
MASKED = [
    "train.model={preset: bert-base, layers: 1, heads: 2, width: 32, context_length: 32, "
    "pooler: false, sentence_classes: 0}",
    "train.objective={name: masked, masking: {unit: word}}",
]
TOKENS_ONLY = [MASKED[0], "train.objective={name: masked}"]


@pytest.fixture
def plan_of(tmp_path: Path) -> Callable[..., Plan]:
    write_corpus(tmp_path / "corpus", documents=20)

    values = recipe(tmp_path / "corpus")
    del values["marks"]

    def plan(*overrides: str) -> Plan:
        return make_plan(values, str(tmp_path / "workspace"), overrides)

    return plan


def test_marks_are_made_only_where_they_are_asked_for(plan_of: Callable[..., Plan]) -> None:
    without = plan_of(*TOKENS_ONLY)
    assert "marks" not in without.stages
    for stage in ("train", "evaluate"):
        assert "marks" not in without.stages[stage].inputs
    for asking in (MASKED, [*TOKENS_ONLY, "marks={}"]):
        plan = plan_of(*asking)
        assert [*plan.stages][-3:] == ["marks", "train", "evaluate"]
        assert {*plan.stages["marks"].inputs} == {"decontaminate", "tokenizer", "tokenize"}
        for stage in ("train", "evaluate"):
            assert plan.stages[stage].inputs["marks"] == plan.refs["marks"]
        assert plan.refs["tokenize"] == without.refs["tokenize"]
        assert plan.refs["train"] != without.refs["train"]
    assert CORPUS_STAGES[-2:] == ("tokenize", "marks")


def test_the_segmenter_changes_the_marks_and_not_the_tokens(plan_of: Callable[..., Plan]) -> None:
    one, other = plan_of(*MASKED), plan_of(*MASKED, "marks={segmenter: characters}")
    assert one.refs["marks"].fingerprint != other.refs["marks"].fingerprint
    assert one.refs["tokenize"] == other.refs["tokenize"]
