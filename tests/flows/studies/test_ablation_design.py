"""The design of an ablation: what is refused before anything starts, who trains with which seed, what is held apart."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from flows.plan import Plan, make_plan
from flows.recipe import RecipeError
from flows.studies.ablation.design import (
    check_arm,
    check_recipe,
    common_overrides,
    make_arms,
    make_trials,
    trained_tokens,
)
from flows.studies.ablation.held_out import check_apart, read_held, stretches, write_held_out
from flows.studies.ablation.recipe import AblationRecipe, SeparationConfig, load_ablation_recipe
from flows.studies.recipe import TRIAL_OVERRIDES
from pipeline.execution import run_stage
from pipeline.stage import CORPUS_STAGES, document_input
from tests.flows.tiny import recipe, sentences, write_corpus

WIDER = "filter={language: null, gopher_quality: null, gopher_repetition: null, c4: null, encoding: {}}"
SEPARATION = SeparationConfig()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run recipe whose corpus has copies of documents under other ids, which deduplication takes out."""
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, documents=30)
    rows = [json.loads(line) for line in (folder / "english.jsonl").read_text().splitlines() if "broken" not in line]
    rng = random.Random(5)
    copies = [{"text": f"{sentences(rng, 'en', 3)}\n\n{row['text']}"} for row in rows[:30]]
    (folder / "copies.jsonl").write_text("".join(json.dumps(row) + "\n" for row in copies))
    values = recipe(folder)
    for section in ("classify", "perplexity_model", "decontaminate", "marks", "deduplicate"):
        del values[section]
    values["ingest"]["sources"].append({"name": "copies", "format": "jsonl", "path": str(folder / "copies.jsonl")})
    values["filter"] = {}
    values["tokenizer"]["validation_fraction"] = 0.25
    return values


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workspace")


def study(base: str | dict[str, Any] = "quickstart", **changes: Any) -> AblationRecipe:
    values = {"name": "a", "base": base, "variants": [{"name": "wider", "overrides": [WIDER]}], **changes}
    return load_ablation_recipe(values)


def corpus(plan: Plan) -> Plan:
    for name in CORPUS_STAGES:
        if name in plan.stages and not plan.refs[name].is_committed:
            run_stage(plan.stages[name], plan.store, workers=0)
    return plan


def plan_of(base: dict[str, Any], workspace: Path, *overrides: str) -> Plan:
    return make_plan(base, str(workspace), [*TRIAL_OVERRIDES, *overrides])


def test_copies_of_held_out_documents_are_in_no_training_part(base: dict[str, Any], workspace: Path) -> None:
    reference = corpus(plan_of(base, workspace))
    tokens = reference.refs["tokenize"].committed()
    text = write_held_out(reference, workspace / "studies", SEPARATION)
    written = text.read_bytes()
    assert write_held_out(reference, workspace / "studies", SEPARATION).read_bytes() == written
    held = read_held(tokens)
    lines = [json.loads(line) for line in written.decode().splitlines()]
    assert len({line["id"].partition("#")[0] for line in lines}) == len(held.text_bytes)
    common = common_overrides(reference, reference, text, SEPARATION)
    undone = ["deduplicate={within: id}", WIDER]
    loose = corpus(plan_of(base, workspace, f"reference={json.dumps({'tokens': tokens.fingerprint})}", *undone))
    variant = corpus(plan_of(base, workspace, *common, *undone))
    check_arm("v", variant)
    sentence = {line["id"]: line["text"].split(". ")[8] for line in lines if line["text"].count(". ") > 9}
    assert len(sentence) > 5
    assert any(one in training_text(loose, tokens) for one in sentence.values())  # without it, they are
    cleaned = training_text(variant, tokens)
    assert not [one for one in sentence.values() if one in cleaned]
    facts = check_apart("v", variant.refs["tokenize"].committed(), tokens)
    assert facts["documents"] > 0
    assert 0 < facts["tokens"] < check_apart("loose", loose.refs["tokenize"].committed(), tokens)["tokens"]


def training_text(plan: Plan, held_out: Any) -> str:
    """The text of all documents that a plan trains on."""
    index = pa.concat_tables(file.table() for file in plan.refs["tokenize"].committed().files("index"))
    trained = {row["id"] for row in index.to_pylist() if row["split"] == "train"}
    inputs = plan.stages["tokenize"].inputs
    documents = inputs[document_input(inputs)]
    tables = [file.table(["id", "text"]) for file in documents.committed().files("documents")]
    return "\n".join(row["text"] for table in tables for row in table.to_pylist() if row["id"] in trained)


def test_a_held_out_document_in_training_stops_the_study(base: dict[str, Any], workspace: Path) -> None:
    reference = corpus(plan_of(base, workspace))
    other = corpus(plan_of(base, workspace, "tokenizer.split_seed=9"))
    with pytest.raises(ValueError, match="variant leaky: [1-9][0-9]* held-out documents are in its training part"):
        check_apart("leaky", other.refs["tokenize"].committed(), reference.refs["tokenize"].committed())


def test_seeds_are_paired_and_the_controls_are_its_own() -> None:
    loaded = study(seeds=[3, 5])
    arms = make_arms(loaded, ("x=1",))
    assert list(arms) == ["reference", "wider", "control"]
    assert arms["control"] == arms["reference"] == ("x=1",)
    trials = make_trials(loaded, arms)
    assert [trial.name for trial in trials] == [
        *("reference-3", "wider-3", "control-6", "reference-5", "wider-5", "control-7")
    ]
    assert trials[1].overrides == ("x=1", WIDER, "train.training.seed=3")
    assert trials[2].parameters == {"variant": "control", "seed": 6}
    without = study(control=False)
    assert "control" not in make_arms(without, ())


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ("train.training.steps=31", "trains on 7,936 tokens, the reference on 7,680"),
        ("train.training.log_every=7", "change nothing of the training|equal"),
        ("tokenizer.vocabulary_size=600", "changes tokenizer.vocabulary_size"),
        ("tokenizer.validation_fraction=0.5", "changes tokenizer.validation_fraction"),
        ("filter.gopher_qality={}", "variants.v: .*gopher_qality: unknown key"),
        ("execution.workers=1", "change nothing of the training"),
    ],
)
def test_variants_that_cannot_be_compared_are_refused(
    base: dict[str, Any], workspace: Path, variant: str, message: str
) -> None:
    loaded = study(base, variants=[{"name": "v", "overrides": [variant]}])
    if "log_every" in variant:  # part of a training's identity: it is compared, and finds nothing
        return check_recipe(loaded, lambda overrides: plan_of(base, workspace, *overrides))
    with pytest.raises(RecipeError, match=f"(?s){message}"):
        check_recipe(loaded, lambda overrides: plan_of(base, workspace, *overrides))
    return None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variants": []}, "variants"),
        ({"variants": [{"name": "control", "overrides": ["a=1"]}]}, "the name 'control' is taken"),
        ({"variants": [{"name": "a", "overrides": ["a=1"]}] * 2}, "two of the name 'a'"),
        ({"variants": [{"name": "a", "overrides": []}]}, "overrides"),
        ({"variants": [{"name": "a", "overrides": ["train.training.seed=2"]}]}, "seeds are the study's"),
        ({"seeds": [1]}, "seeds"),
        ({"seeds": [1, 1]}, "each must be 0 or more and stand there once"),
        ({"level": 1.0}, "level"),
    ],
)
def test_a_wrong_recipe_names_the_field(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        study(**changes)


def test_the_base_recipes_own_evaluation_sets_stay(base: dict[str, Any], workspace: Path) -> None:
    text = workspace / "held-out.jsonl"
    text.write_text('{"id": "1", "text": "x"}\n')
    own = {"benchmarks": [{"name": "quiz", "path": str(text), "fields": ["text"]}], "action": "drop"}
    plan = plan_of({**base, "decontaminate": own}, workspace)
    (_, section) = common_overrides(plan, plan, text, SEPARATION)
    joined = plan_of({**base, "decontaminate": own}, workspace, section)
    assert joined.recipe.decontaminate is not None
    assert [one.name for one in joined.recipe.decontaminate.benchmarks] == ["quiz", "held-out"]
    noted = plan_of({**base, "decontaminate": {**own, "action": "annotate"}}, workspace)
    with pytest.raises(RecipeError, match="annotate leaves copies of held-out documents"):
        common_overrides(noted, noted, text, SEPARATION)
    for undone in ("decontaminate=null", "decontaminate.action=annotate"):
        with pytest.raises(RecipeError, match="variants.v: its overrides of `decontaminate`"):
            check_arm("v", plan_of({**base, "decontaminate": own}, workspace, section, undone))


def test_an_objective_without_bits_per_byte_is_refused(base: dict[str, Any], workspace: Path) -> None:
    masked = [
        "train.model={preset: bert-base, layers: 1, heads: 2, width: 32, context_length: 32, pooler: false, "
        "sentence_classes: 0}",
        "train.objective={name: masked}",
    ]
    with pytest.raises(RecipeError, match="its objective is masked"):
        check_recipe(study(base), lambda overrides: plan_of(base, workspace, *masked, *overrides))


def test_stretches_hold_all_of_a_text() -> None:
    for length in (0, 10, 999, 1499, 1500, 2600, 12_345):
        text = "".join(chr(97 + place % 26) for place in range(length))
        parts = list(stretches(text, 1000))
        assert "".join(parts) == text
        assert all(500 <= len(part) < 1500 for part in parts) or length < 500


@pytest.mark.parametrize("name", ["quickstart", "tiny"])
def test_the_recipes_are_whole(name: str, tmp_path: Path) -> None:
    loaded = load_ablation_recipe(name)
    plans = [make_plan(loaded.base, str(tmp_path), [*loaded.overrides, *one.overrides]) for one in loaded.variants]
    assert len({trained_tokens(plan) for plan in plans}) == 1
