"""Sweeps of learning rates: what a recipe may ask for, what is trained, and what is made of the losses."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from flows.plan import make_plan
from flows.recipe import RECIPES, RecipeError
from flows.studies.recipe import TRIAL_OVERRIDES
from flows.studies.transfer.analysis import Transfer, results_of, transfers
from flows.studies.transfer.page import lines_of, page_of
from flows.studies.transfer.recipe import TransferRecipe, load_transfer_recipe
from flows.studies.transfer.trials import trials_of
from flows.studies.trial import Outcome
from tests.flows.conftest import Headrace
from tests.flows.tiny import recipe as tiny
from tests.flows.tiny import write_corpus, write_recipe
from training.config import ModelConfig

RATE = "train.optimizer.learning_rate"
NAMES = sorted(path.stem for path in (RECIPES / "transfer").glob("*.yaml"))


def recipe_of(**changes: Any) -> TransferRecipe:
    values = {"name": "some", "base": "quickstart", "sizes": [64, 128], "rates": {RATE: 0.01}, "factors": [0.5, 1, 2]}
    return load_transfer_recipe({**values, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sizes": [64]}, "sizes.*at least 2 items"),
        ({"sizes": [64, 64]}, r"sizes names a value twice: \[64, 64\]"),
        ({"sizes": [0, 64]}, "sizes must be at least 1, got 0"),
        ({"factors": [1, 2]}, "factors.*at least 3 items"),
        ({"factors": [0, 1, 2]}, "factors must be positive numbers"),
        ({"rates": {}}, "rates.*at least 1 item"),
        ({"rates": {RATE: math.inf}}, "rates must be positive numbers"),
        ({"rates": {"train.training.steps": 3}}, "rates.train.training.steps is no learning rate"),
        ({"axis": "heads"}, "axis.*'width' or 'depth'"),
        ({"parametrizations": ["mup", "mup"]}, "parametrizations names a value twice"),
        ({"tolerance": 0}, "tolerance.*greater than 0"),
        ({"widths": [1]}, "widths"),
    ],
)
def test_recipes_that_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe_of(**changes)


@pytest.mark.parametrize("size", [48, 65])
def test_widths_that_heads_do_not_fill(size: int) -> None:
    with pytest.raises(RecipeError, match=f"2 heads at train.model.width 128 would be no whole number at {size}"):
        trials_of(recipe_of(sizes=[size, 128]), ModelConfig(width=128, heads=2))


def test_sizes_keep_the_shape_of_the_model() -> None:
    model = ModelConfig(width=128, heads=4, kv_heads=2, mlp_width=300)
    trials = trials_of(recipe_of(sizes=[256, 64], seeds=[3, 5]), model)
    assert len(trials) == len({trial.name for trial in trials}) == 2 * 2 * 3 * 2
    first = trials[0]
    assert first.name == "standard-width-64-x0.5-seed-3"
    assert first.parameters == {"parametrization": "standard", "width": 64, "rate": 0.005, "factor": 0.5, "seed": 3}
    assert first.overrides[:4] == (
        "train.model.width=64",
        "train.model.heads=2",
        "train.model.kv_heads=1",
        "train.model.mlp_width=150",
    )


@pytest.mark.parametrize("name", NAMES)
def test_recipes_that_come_along(name: str, tmp_path: Path) -> None:
    """Each trial is a training of its own, of the size and at the rates that its name says."""
    recipe = load_transfer_recipe(name)
    fixed = [*TRIAL_OVERRIDES, *recipe.overrides]
    base = make_plan(recipe.base, str(tmp_path), fixed)
    trials = trials_of(recipe, base.recipe.train.model)
    assert len(trials) == len(recipe.sizes) * 2 * len(recipe.factors)
    found, chosen = set(), trials[:: len(recipe.factors) + 1]
    for trial in chosen:
        plan = make_plan(recipe.base, str(tmp_path), [*fixed, *trial.overrides])
        train, given = plan.recipe.train, trial.parameters
        found.add(plan.refs["train"].fingerprint)
        assert plan.refs["tokenize"].fingerprint == base.refs["tokenize"].fingerprint
        assert given[recipe.axis] == (train.model.width if recipe.axis == "width" else train.model.layers)
        assert train.model.width_of_head == base.recipe.train.model.width_of_head
        assert train.model.initialization == ("mup" if given["parametrization"] == "mup" else recipe.standard)
        swept = next(iter(recipe.rates)).rpartition(".")[2]
        assert getattr(train.optimizer, swept) == pytest.approx(given["rate"])
        if given["parametrization"] == "mup":
            grows = train.model.mup_base_width if recipe.axis == "width" else train.model.mup_base_layers
            assert grows == min(recipe.sizes)
    assert len(found) == len(chosen)


def outcomes_of(
    recipe: TransferRecipe, moves: dict[str, float], diverged: frozenset[str] = frozenset()
) -> list[Outcome]:
    """Parabolas whose best rate is 0.01 at width 64, and moves by so many octaves a doubling."""
    outcomes = []
    for trial in trials_of(recipe, ModelConfig(width=128, heads=4)):
        given = trial.parameters
        doublings = math.log2(float(given["width"]) / 64)
        best = math.log2(0.01) + moves[str(given["parametrization"])] * doublings
        loss = 5 - 0.3 * doublings + 0.1 * (math.log2(float(given["rate"])) - best) ** 2
        state: Any = "diverged" if trial.name in diverged else "finished"
        outcomes.append(Outcome(trial, state, "loss is no number" if trial.name in diverged else "", loss=loss))
    return outcomes


def study(
    diverged: frozenset[str] = frozenset(), **changes: Any
) -> tuple[TransferRecipe, list[Transfer], list[Outcome]]:
    recipe = recipe_of(sizes=[64, 128, 256], factors=[0.125, 0.25, 0.5, 1, 2, 4], **changes)
    outcomes = outcomes_of(recipe, {"standard": -1.0, "mup": 0.05}, diverged)
    return recipe, transfers(recipe, outcomes), outcomes


def test_a_rate_holds_where_its_optimum_stays() -> None:
    recipe, found, outcomes = study()
    standard, mup = found
    assert standard.octaves == pytest.approx(-1.0)
    assert mup.octaves == pytest.approx(0.05)
    # Two doublings, two octaves: 0.1 nats an octave squared.
    assert (standard.taken, standard.lost, standard.held) == (0.01, pytest.approx(0.4), False)
    assert (mup.taken, mup.held) == (0.01, True)
    results = results_of(recipe, found, outcomes)
    assert results["metrics"]["standard/octaves_per_doubling"] == pytest.approx(-1.0)
    assert results["tables"]["optima"]["rows"][2][:3] == ["standard", 256, pytest.approx(0.0025)]
    json.dumps(results, allow_nan=False)
    page = page_of(recipe, found, outcomes)
    assert page.lines[0].startswith("Standard parametrisation: it does not hold. The best rate of width 64, 0.01,")
    assert "loses 0.4000 nats" in page.lines[0]
    assert page.lines[1].startswith("muP: it holds.")
    assert page.lines[2].startswith("The best rate moves by 0.05 octaves a doubling of the width with muP, by 1.00")
    html = page.html()
    assert html.count("<svg") == 3
    assert "width 256: best rate 0.0025" in html


def test_what_diverged_is_named_and_left_out() -> None:
    gone = frozenset({"standard-width-256-x1-seed-0", "standard-width-256-x2-seed-0", "standard-width-256-x4-seed-0"})
    recipe, found, outcomes = study(gone)
    assert (found[0].lost, found[0].held) == (math.inf, False)
    lines = lines_of(recipe, found, outcomes)
    assert "taken to width 256, does not finish" in lines[0]
    assert lines[-1].startswith("3 of 36 trials are left out: standard-width-256-x1-seed-0 (diverged), ")
    results = results_of(recipe, found, outcomes)
    assert [row["trial"] for row in results["excluded"]] == sorted(gone)
    assert "standard/transfer_loss" not in results["metrics"]
    json.dumps(results, allow_nan=False)
    assert "loss is no number" in page_of(recipe, found, outcomes).html()


def test_a_sweep_that_all_but_diverged_has_no_verdict() -> None:
    gone = frozenset(f"mup-width-64-x{factor:g}-seed-0" for factor in (0.25, 0.5, 1, 2))
    recipe, found, outcomes = study(gone)
    assert (found[1].held, found[1].octaves) == (None, pytest.approx(0.05))
    said = "muP: no verdict; width 64: an optimum needs losses at three rates at least, got 2."
    assert said in lines_of(recipe, found, outcomes)
    page_of(recipe, found, outcomes).html()


def test_an_optimum_at_the_edge_is_told() -> None:
    recipe = recipe_of(sizes=[64, 256], factors=[0.5, 1, 2])
    found = transfers(recipe, outcomes_of(recipe, {"standard": -1.0, "mup": 0.0}))
    assert (found[0].at_edge, found[1].at_edge) == (True, False)
    assert "it does not hold" in lines_of(recipe, found, [])[0]
    assert "an optimum lies at the edge of its sweep, and may be beyond it" in lines_of(recipe, found, [])[0]
    # All losses fall with the rate: the same rate is best everywhere, as far as one can see.
    recipe = recipe_of(rates={RATE: 0.001})
    found = transfers(recipe, outcomes_of(recipe, {"standard": 0.0, "mup": 0.0}))
    assert [(one.lost, one.held) for one in found] == [(0, None), (0, None)]
    assert lines_of(recipe, found, [])[1].startswith("muP: no verdict; the sweep is too narrow.")


def test_losses_are_means_over_the_seeds() -> None:
    _, found, _ = study(seeds=[0, 1])
    assert found[1].octaves == pytest.approx(0.05)
    gone = frozenset({"mup-width-64-x1-seed-1"})
    _, found, _ = study(gone, seeds=[0, 1])
    assert math.isinf(found[1].curves[0].loss_at(0.01))
    # As high as it goes: what comes next diverges at every size.
    recipe = recipe_of(sizes=[64, 128], factors=[0.125, 0.25, 0.5, 1], parametrizations=["mup"])
    gone = frozenset(f"mup-width-{size}-x1-seed-0" for size in (64, 128))
    (one,) = transfers(recipe, outcomes_of(recipe, {"mup": 0.0}, gone))
    assert (one.at_edge, one.taken, one.held) == (False, 0.005, True)


def test_the_command_trains_what_is_missing_and_shows_where_the_best_rate_lies(
    headrace: Headrace, tmp_path: Path
) -> None:
    write_corpus(tmp_path / "corpus", documents=30)
    base = tiny(tmp_path / "corpus")
    for section in ("classify", "perplexity_model", "decontaminate", "marks", "deduplicate"):
        del base[section]
    base["filter"], base["train"]["model"]["bigram_buckets"] = {}, 0
    base["execution"] = {"workers": 0, "tasks_per_stage": 1}
    values = {
        "name": "small",
        "base": base,
        "overrides": ["train.optimizer.name=adamw", "train.training.steps=4", "train.training.evaluate_every=4"],
        "sizes": [32, 64],
        "rates": {RATE: 0.03},
        "factors": [0.1, 1, 10],
        "parametrizations": ["mup"],
    }
    path = write_recipe(tmp_path / "small.yaml", values)
    done = headrace("transfer", str(path), "--workspace", str(tmp_path / "ws"), "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    facts = json.loads(done.stdout)
    assert [row[:2] for row in facts["tables"]["optima"]["rows"]] == [["mup", 32], ["mup", 64]]
    assert facts["excluded"] == []
    assert "loss over learning rate" in Path(facts["page"]).read_text(encoding="utf-8")
    assert len(list(Path(facts["page"]).parent.glob("trials/*.json"))) == 6
