"""A run that takes the tokenizer and the held-out documents of another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from flows.plan import Plan, make_plan
from flows.recipe import RecipeError
from flows.training_stages import Train, data_of
from pipeline.execution import run_stage
from pipeline.stage import CORPUS_STAGES
from tests.flows.tiny import recipe, write_corpus

WIDER = ["filter={language: null, gopher_quality: null, gopher_repetition: null, c4: null, encoding: {}}"]


def run_corpus(plan: Plan) -> Plan:
    for name in CORPUS_STAGES:
        if name in plan.stages and not plan.refs[name].is_committed:
            run_stage(plan.stages[name], plan.store, workers=0)
    return plan


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, documents=30)
    given = recipe(folder)
    for section in ("classify", "perplexity_model", "decontaminate", "marks"):
        del given[section]
    given["filter"] = {}
    return given


@pytest.fixture(scope="module")
def workspace(values: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which the corpus of the reference is done, and a run is on record."""
    workspace = tmp_path_factory.mktemp("workspace")
    plan = run_corpus(make_plan(values, str(workspace)))
    plan.write_record(state="running")
    return workspace


def ids(plan: Plan, split: str, tokens: str = "tokenize") -> set[str]:
    table = pa.concat_tables(file.table() for file in plan.refs[tokens].committed().files("index"))
    return set(table.filter(pc.equal(table["split"], split))["id"].to_pylist())


def plan_of(values: dict[str, Any], workspace: Path, *overrides: str, name: str = "other") -> Plan:
    return make_plan({**values, "name": name}, str(workspace), [*WIDER, *overrides])


def test_tokenizer_and_held_out_shards_are_those_of_the_reference(values: dict[str, Any], workspace: Path) -> None:
    reference = make_plan(values, str(workspace))
    other = run_corpus(plan_of(values, workspace, "reference={recipe: tiny}"))
    assert other.refs["tokenizer"] == reference.refs["tokenizer"]
    assert other.refs["tokenize"] != reference.refs["tokenize"]
    assert ids(other, "train") > ids(reference, "train")  # the wider filter lets more in
    assert not ids(other, "train") & ids(reference, "validation")
    train = other.stages["train"]
    assert isinstance(train, Train)
    run = train.run_config(other.refs["tokenize"].committed(), workspace / "out")
    held_out = [shard.path for shard in run.shards("validation")]
    assert held_out
    assert all(path.startswith(reference.refs["tokenize"].path) for path in held_out)
    assert all(shard.path.startswith(other.refs["tokenize"].path) for shard in run.shards("train"))
    assert data_of(other.refs["tokenize"].committed(), other.stages["evaluate"].inputs) == run.data


def test_the_reference_is_part_of_what_is_trained(values: dict[str, Any], workspace: Path) -> None:
    alone, other = plan_of(values, workspace), plan_of(values, workspace, "reference={recipe: tiny}")
    assert "reference" not in alone.stages["train"].inputs
    assert other.refs["train"] != alone.refs["train"]
    # It is named by its shards from here on, so that a newer run of that recipe changes nothing.
    assert other.recipe.given()["reference"] == {
        "tokens": make_plan(values, str(workspace)).refs["tokenize"].fingerprint
    }
    assert make_plan(other.recipe.given(), str(workspace)).refs == other.refs


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["reference={recipe: nobody}"], "reference.recipe: 'nobody' has never run here; runs are of: tiny"),
        (["reference={tokens: 0123}"], "tokens"),
        (["reference={tokens: abcd}"], "holds no committed token shards"),
        (["reference={}"], "give either recipe or tokens"),
        (["reference={recipe: tiny}", "tokenizer.vocabulary_size=600"], "tokenizer.vocabulary_size: the reference's"),
        (["reference={recipe: tiny}", "tokenizer.split_seed=5"], "tokenizer.split_seed: the reference's"),
        (["reference={recipe: tiny}", "train.objective.name=masked", "marks={}"], "bidirectional"),
        (["reference={recipe: tiny}", "marks={}"], "have no marks of words and sentences"),
        (["tokenize.mixture={englisch: 2}"], "tokenize.mixture: there is no source 'englisch'"),
        (["tokenize.mixture={english: 2}", "marks={}"], "cannot be marked"),
    ],
)
def test_what_cannot_be_a_reference_is_named(
    values: dict[str, Any], workspace: Path, overrides: Sequence[str], message: str
) -> None:
    with pytest.raises((RecipeError, ValueError), match=message):
        plan_of(values, workspace, *overrides)
