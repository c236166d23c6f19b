"""An ablation from its recipe to its page, and its verdicts in words."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from flows.studies.ablation.findings import Findings, find, lines, results
from flows.studies.ablation.flow import ablation
from flows.studies.ablation.page import make_page
from flows.studies.ablation.recipe import AblationRecipe, load_ablation_recipe
from flows.studies.ablation.scoring import _read
from flows.studies.trial import Trial
from tests.flows.tiny import recipe, write_corpus
from training.comparison import Held

Headrace = Callable[..., subprocess.CompletedProcess[str]]

SEEDS = [1, 2, 3]


@pytest.fixture(scope="module")
def study_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ablation of a tiny corpus: its mixture, in trainings of a second."""
    folder = tmp_path_factory.mktemp("ablation")
    write_corpus(folder / "corpus", documents=30)
    base = recipe(folder / "corpus")
    for section in ("classify", "perplexity_model", "decontaminate", "marks"):
        del base[section]
    base["filter"], base["deduplicate"] = {}, {}
    base["execution"] = {"workers": 0, "tasks_per_stage": 1}
    base["tokenizer"]["validation_fraction"] = 0.2
    base["train"]["training"] |= {"steps": 12, "evaluate_every": 12}
    study = {
        "name": "mixed",
        "base": base,
        "threads": 1,
        "seeds": [1, 2],
        "minimum_documents": 4,
        "resamples": 100,
        "variants": [
            {"name": "spanish", "decision": "The mixture", "overrides": ["tokenize.mixture={spanish: 4, chinese: 0.2}"]}
        ],
    }
    path = folder / "mixed.yaml"
    path.write_text(yaml.safe_dump(study, allow_unicode=True), encoding="utf-8")
    return path


def test_a_study_from_recipe_to_page(headrace: Headrace, study_file: Path, tmp_path: Path) -> None:
    workspace = tmp_path / "work space"
    done = headrace("ablation", str(study_file), "--workspace", str(workspace), "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    facts = json.loads(done.stdout)
    assert {trial["trial"]: trial["state"] for trial in facts["trials"]} == dict.fromkeys(
        ["reference-1", "spanish-1", "control-3", "reference-2", "spanish-2", "control-4"], "finished"
    )
    rows = {row[0]: row for row in facts["tables"]["differences"]["rows"]}
    assert set(rows) == {"spanish", "control"}
    assert rows["spanish"][4] == pytest.approx(rows["spanish"][2] - rows["spanish"][3])
    assert {row[1] for row in facts["tables"]["sources"]["rows"]} == {"english", "chinese", "spanish", "notes"}
    parts = {row[0]: row[1:] for row in facts["tables"]["training parts"]["rows"]}
    assert parts["reference"] == parts["control"] != parts["spanish"]
    assert facts["trusted"] in (True, False)
    assert len(facts["lines"]) == 2
    page = Path(facts["page"]).read_text(encoding="utf-8")
    assert "The mixture" in page
    assert "<svg" in page
    # Each model was judged on the same documents: the nats of its tokens over all of them.
    scores = sorted((Path(facts["page"]).parent / "held-out").glob("*.npy"))
    assert len(scores) == 6
    assert len({np.load(path).shape for path in scores}) == 1


def test_what_was_scored_is_read_again_if_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "nats.npy"
    np.save(path, np.array([[3.0, 0.1], [5.0, 0.2]]))
    found = _read(path, 2)
    assert found is not None
    assert found.tolist() == [3.0, 5.0]
    assert _read(path, 3) is None  # of other documents
    path.write_bytes(path.read_bytes()[:-8])
    assert _read(path, 2) is None
    assert _read(tmp_path / "none.npy", 2) is None


def test_a_file_that_the_suite_lacks_is_told_before_anything_starts(tmp_path: Path) -> None:
    values = recipe_of(suite="quick", data=str(tmp_path)).model_dump()
    with pytest.raises(ValueError, match=f"there is no file .*; relative paths start from {tmp_path}"):
        ablation.fn(values, str(tmp_path / "workspace"))
    assert not (tmp_path / "workspace").exists()


def recipe_of(**changes: Any) -> AblationRecipe:
    variants = [
        {"name": "no-filter", "decision": "The filter", "overrides": ["filter={}"]},
        {"name": "no-duplicates", "decision": "Deduplication", "overrides": ["deduplicate={}"]},
    ]
    return load_ablation_recipe({"name": "a", "base": "quickstart", "variants": variants, "seeds": SEEDS, **changes})


def findings_of(
    recipe: AblationRecipe, effects: dict[str, float], lost: tuple[str, ...] = (), noise: float = 0.001
) -> Findings:
    """What is found where arms differ from the reference by `effects` in bits per byte, and some trials are lost."""
    generator = np.random.default_rng(2)
    held = Held(np.full(40, 1000.0), np.array(["a"] * 36 + ["b"] * 4))
    trials = [
        Trial(f"{arm}-{seed}", (), {"variant": arm, "seed": seed})
        for arm in ("reference", "no-filter", "no-duplicates", "control")
        for seed in (recipe.control_seeds if arm == "control" else recipe.seeds)
    ]
    base = 1.5 + 0.2 * generator.standard_normal(40)
    scores = {}
    for trial in trials:
        effect = effects.get(str(trial.parameters["variant"]), 0.0) + noise * generator.standard_normal()
        scores[trial.name] = (base + effect) * 1000 * np.log(2)
    kept = {name: nats for name, nats in scores.items() if name not in lost}
    return find(recipe, held, trials, kept, dict.fromkeys(lost, "diverged: loss became nan"))


def test_a_verdict_in_a_sentence_for_each_decision() -> None:
    recipe = recipe_of()
    findings = findings_of(recipe, {"no-filter": 0.1})
    trust, first, second = lines(recipe, findings)
    assert trust.startswith("The negative control holds")
    assert first.startswith("The filter earned its place: no-filter costs +0.09")
    assert second.startswith("Deduplication: no difference shown")
    better = lines(recipe, findings_of(recipe, {"no-filter": -0.1}))[1]
    assert better.startswith("The filter did not earn its place: no-filter is better, -0.10")
    assert {one.verdict for one in findings.sources if one.group == "b"} == {"too_few"}


def test_a_control_that_differs_takes_the_trust_away() -> None:
    recipe = recipe_of()
    findings = findings_of(recipe, {"no-filter": 0.4, "no-duplicates": 0.05, "control": 0.2})
    assert findings.trusted is False
    said = lines(recipe, findings)
    assert said[0].startswith("NOT TO BE TRUSTED")
    assert said[1].startswith("The filter earned its place (not to be trusted)")
    assert said[2].startswith("Deduplication: no-duplicates differs by +0.0")
    assert "no more than two equal variants do" in said[2]
    assert results(findings, {}, 1)["metrics"]["trusted"] == 0.0


def test_lost_trainings_are_named_and_left_out() -> None:
    recipe = recipe_of()
    findings = findings_of(recipe, {"no-filter": 0.1}, lost=("no-duplicates-1", "no-duplicates-3", "control-5"))
    said = lines(recipe, findings)
    assert "Deduplication: nothing can be said, 1 of 3 pairs of trainings finished." in said
    assert "Left out: no-duplicates-1, diverged: loss became nan." in said
    assert [one.variant for one in findings.overall] == ["no-filter"]
    assert findings.overall[0].verdict == "worse"
    nothing = findings_of(recipe, {}, lost=("reference-1", "reference-2"))
    assert nothing.overall == []
    assert nothing.control is None
    assert set(nothing.unheard) == {"no-filter", "no-duplicates"}
    assert lines(recipe, nothing)[0].startswith("Not checked by a negative control")
    text = json.dumps(results(nothing, {"reference": {"documents": 3, "tokens": 10}}, 20), allow_nan=False)
    assert json.loads(text)["tables"]["training parts"]["rows"] == [["reference", 3, 10, 2.0]]
    assert "Left out" in make_page(recipe, nothing, lines(recipe, nothing), {}, 1).html()


def test_a_recipe_without_control_says_so() -> None:
    recipe = recipe_of(control=False)
    findings = dataclasses.replace(findings_of(recipe, {}), suite=[])
    assert findings.trusted is None
    assert "the recipe has none" in lines(recipe, findings)[0]
