"""A scaling study from its recipe to its page, and ladders that cannot be."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.recipe import Recipe, RecipeError, load_recipe
from flows.studies.scaling.arithmetic import counter
from flows.studies.scaling.flow import fit
from flows.studies.scaling.ladder import Arithmetic, Ladder, make_ladder, short_count
from flows.studies.scaling.page import lines_of, page_of
from flows.studies.scaling.recipe import ScalingRecipe, load_scaling_recipe
from flows.studies.scaling.results import Findings, results_of
from flows.studies.trial import Outcome
from tests.flows.tiny import recipe, write_corpus
from tests.training.scaling.ladders import BESIROGLU
from training.scaling import ScalingError, valleys

Headrace = Callable[..., subprocess.CompletedProcess[str]]

SIZES = [{"layers": 1, "width": width, "heads": 1} for width in (64, 128, 256)]


def test_a_study_from_recipe_to_page(headrace: Headrace, tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", documents=40)
    base = recipe(tmp_path / "corpus")
    for section in ("classify", "perplexity_model", "decontaminate", "marks"):
        del base[section]
    base["filter"], base["deduplicate"] = {}, {}
    base["execution"] = {"workers": 0, "tasks_per_stage": 1}
    base["train"]["model"] = {"context_length": 32, "bigram_buckets": 0}
    base["train"]["training"] |= {"guard": {"skipped_steps": 2}}
    sizes = [{"layers": 1, "width": width, "heads": 1} for width in (8, 16, 24)]
    lost = {"layers": 2, "width": 8, "heads": 1, "overrides": ["train.optimizer.learning_rate=1e30"]}
    study = {
        "name": "ladder",
        "base": base,
        "threads": 1,
        "sizes": [*sizes, lost],
        "tokens": [1024, 2048, 4096],
        "tokens_per_parameter": [0, 1000],
        "draws": 50,
        "within": 0.5,
        "held_out": {"size": {"layers": 1, "width": 32, "heads": 1}, "tokens": 5120},
    }
    path = tmp_path / "ladder.yaml"
    path.write_text(yaml.safe_dump(study, allow_unicode=True), encoding="utf-8")
    command = ("scaling", str(path), "--workspace", str(tmp_path / "work"), "--json")
    done = headrace(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    facts = json.loads(done.stdout)
    states = {trial["trial"]: trial["state"] for trial in facts["trials"]}
    assert len(states) == 13
    assert {name for name, state in states.items() if state != "finished"} == set(facts["analysis"]["left_out"])
    assert set(facts["analysis"]["left_out"]) == {"8x2-1.02k", "8x2-2.05k", "8x2-4.1k"}
    assert all("diverged" in why for why in facts["analysis"]["left_out"].values())
    # The arithmetic that the ladder was planned with is that of the trainer.
    for trial in facts["trials"]:
        if trial["state"] == "finished":
            assert trial["parameters"]["tokens"] == trial["tokens"]
            assert trial["parameters"]["parameters"] == trial["matrix_parameters"]
    assert facts["ladder"]["flops"] == pytest.approx(
        sum(
            trial["flops"] for trial in facts["trials"] if trial["state"] == "finished" and trial["trial"] != "held-out"
        )
        + sum(_lost_flops(facts))
    )
    forecast = facts["forecast"]
    held_out = next(trial for trial in facts["trials"] if trial["trial"] == "held-out")
    assert forecast["measured"] == held_out["loss"]
    assert forecast["inside"] == (forecast["low"] <= held_out["loss"] <= forecast["high"])
    assert forecast["on_record_before_the_run"] is True
    folder = Path(facts["page"]).parent
    before = json.loads((folder / "forecast.json").read_text())
    assert before["time"] < (folder / "trials" / "held-out.json").stat().st_mtime
    page = Path(facts["page"]).read_text(encoding="utf-8")
    assert page.count("<svg") >= 3
    assert "8x2-1.02k (diverged" in page
    again = headrace(*command)
    assert again.returncode == 0, again.stdout + again.stderr
    assert json.loads(again.stdout)["forecast"] == forecast
    assert json.loads((folder / "forecast.json").read_text()) == before


def _lost_flops(facts: dict[str, Any]) -> list[float]:
    """FLOPs that the runs that diverged would have taken, from a token's and the tokens that they were to see."""
    planned = [trial for trial in facts["trials"] if trial["state"] == "diverged"]
    shape = 6 * (2 * 12 * 8 * 8 + 8 * 512) + 12 * 2 * 32 * 8
    return [float(shape * trial["parameters"]["tokens"]) for trial in planned]


def study_of(**changes: Any) -> ScalingRecipe:
    values = {"name": "ladder", "base": "quickstart", "sizes": SIZES, "tokens": [1e6, 2e6, 4e6], "draws": 50}
    return load_scaling_recipe({**values, **changes})


def count(overrides: Sequence[str]) -> Arithmetic:
    """Sizes of 12 width^2 parameters in products."""
    width = int(next(one.partition("=")[2] for one in overrides if one.startswith("train.model.width=")))
    return Arithmetic(72.0 * width**2, 20 * width**2, 12 * width**2, 2048)


def ladder_of(**changes: Any) -> Ladder:
    study = study_of(**changes)
    return make_ladder(study, load_recipe("quickstart"), count)


def test_slices_have_equal_flops_and_rates_follow_the_width() -> None:
    ladder = ladder_of(
        tokens=[],
        tokens_per_parameter=[0, 1000],
        slices=[2e12, 8e12],
        rates={"train.optimizer.learning_rate": -0.5},
        reference_width=64,
        warmup=0.1,
    )
    names = [rung.trial.name for rung in ladder.rungs]
    assert set(names[:3]) == {"256x1-424k", "128x1-1.7m", "64x1-6.78m"}
    assert set(names[3:]) == {"256x1-1.7m", "128x1-6.78m", "64x1-27.13m"}
    for rung, flops in zip(ladder.rungs, [2e12] * 3 + [8e12] * 3, strict=True):
        assert rung.flops == pytest.approx(flops, rel=0.005)
        assert rung.tokens == 2048 * rung.steps
    assert ladder.flops == pytest.approx(3e13, rel=0.005)
    settings = dict(one.split("=") for one in ladder.rungs[names.index("256x1-424k")].trial.overrides)
    assert float(settings["train.optimizer.learning_rate"]) == pytest.approx(0.04 / 2)
    steps = int(settings["train.training.steps"])
    assert int(settings["train.training.evaluate_every"]) == steps
    assert int(settings["train.schedule.warmup_steps"]) == round(0.1 * steps)
    load_recipe("quickstart", ladder.rungs[0].trial.overrides)


def test_a_budget_is_filled_with_the_cheapest_runs() -> None:
    whole = ladder_of()
    assert len(whole.rungs) == 9
    part = ladder_of(budget=whole.flops - 1)
    assert [rung.trial.name for rung in part.rungs] == [rung.trial.name for rung in whole.rungs[:-1]]
    assert part.left_out == ("256x1-4m (over the budget)",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": 1e9}, r"budget \(1e\+09 FLOPs\) is smaller than one run: the cheapest, 64x1-999k, takes 2.95e\+11"),
        ({"budget": 2e12}, "at least 6 finished runs, there are"),
        ({"tokens": [1e6]}, r"at least 6 finished runs, there are 3"),
        ({"tokens": [1e6, 2e6]}, "at least 3 different token counts"),
        ({"tokens_per_parameter": [1e6, 1e7]}, "the ladder of ladder has no run: 64x1-999k"),
        ({"least_tokens": 3e6}, "there are 3; left out: 64x1-999k"),
        ({"held_out": {"size": SIZES[0], "tokens": 1e6}}, "no more than the ladder's 256x1-4m"),
        ({"rates": {"train.optimizer.speed": 1.0}}, "rates.train.optimizer.speed: the run recipe has no number"),
        ({"held_out": {"size": SIZES[0]}}, "held_out: give either tokens or flops"),
        ({"sizes": [*SIZES, SIZES[0]]}, r"there are two of 64x1 \(width x layers\)"),
        ({"sizes": SIZES[:2]}, "sizes: List should have at least 3 items"),
        ({"tokens": []}, "a ladder needs slices or tokens"),
        ({"slices": [1e12, -1]}, "slices must be positive numbers, got -1"),
        ({"tokens_per_parameter": [5, 1]}, "a lower and an upper limit, got 5 and 1"),
        ({"size": 1}, "did you mean 'sizes'"),
    ],
)
def test_a_ladder_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        ladder_of(**changes)


def outcomes_of(ladder: Ladder, lost: int = 0) -> tuple[Outcome, ...]:
    """The ladder as if trained, by a published law; the first ones diverged."""
    found = []
    for index, rung in enumerate(ladder.rungs):
        if index < lost:
            found.append(Outcome(rung.trial, "diverged", "the training loss became nan by step 7"))
            continue
        loss = float(BESIROGLU.loss(1e3 * rung.parameters, 1e3 * rung.tokens)) * (1 + 0.001 * math.sin(index))
        found.append(
            Outcome(
                rung.trial,
                "finished",
                loss=loss,
                parameters=2 * rung.parameters,
                matrix_parameters=rung.parameters,
                tokens=rung.tokens,
                flops=rung.flops,
                seconds=1.0,
            )
        )
    return tuple(found)


def test_runs_that_diverged_are_named_and_left_out() -> None:
    study = study_of()
    ladder = make_ladder(study, load_recipe("quickstart"), count)
    outcomes = outcomes_of(ladder, lost=2)
    analysis = fit(study, outcomes)
    assert set(analysis.left_out) == {ladder.rungs[0].trial.name, ladder.rungs[1].trial.name}
    findings = Findings(study, ladder, outcomes, 500_000, analysis=analysis)
    json.dumps(results_of(findings), allow_nan=False)
    told = "\n".join(lines_of(findings))
    assert "64x1-999k (diverged: the training loss became nan by step 7)" in told
    assert "saw the corpus more than four times" in told
    with pytest.raises(ScalingError, match="there is no run to fit: 64x1-999k: diverged"):
        fit(study, outcomes_of(ladder, lost=9))
    with pytest.raises(ScalingError, match="nothing can be fitted to 1 runs: .*left out: 64x1-999k: diverged") as none:
        fit(study, outcomes_of(ladder, lost=8))
    findings = Findings(study, ladder, outcomes_of(ladder, lost=8), 500_000, problem=str(none.value))
    assert "64x1-999k: diverged: the training loss became nan by step 7" in lines_of(findings)[-1]


def test_the_verdict_says_whether_the_forecast_held() -> None:
    study = study_of(held_out={"size": {"layers": 1, "width": 512, "heads": 1}, "tokens": 4e6})
    ladder = make_ladder(study, load_recipe("quickstart"), count)
    assert ladder.held_out is not None
    outcomes = outcomes_of(ladder)
    analysis = fit(study, outcomes)
    rung = ladder.held_out
    forecast = analysis.forecasters["parametric"].forecast(rung.parameters, rung.tokens, 0.9)
    for loss, verdict, inside in (
        (forecast.loss, "The forecast held", True),
        (9.0, "The forecast did not hold", False),
    ):
        held_out = Outcome(rung.trial, "finished", loss=loss, flops=rung.flops, tokens=rung.tokens)
        findings = Findings(study, ladder, outcomes, 10**7, "", analysis, forecast, held_out=held_out)
        assert lines_of(findings)[-1].startswith(verdict)
        assert results_of(findings)["forecast"]["inside"] is inside
        assert "<svg" in page_of(findings).html()
    lost = Findings(
        study, ladder, outcomes, 10**7, "", analysis, forecast, held_out=Outcome(rung.trial, "failed", "no memory")
    )
    assert "did not finish (failed: no memory)" in lines_of(lost)[-1]
    assert results_of(lost)["forecast"]["held"] is None


@pytest.mark.parametrize(("name", "runs"), [("quickstart", 17), ("tiny", 9), ("gpu", 16)])
def test_the_recipes_are_whole(name: str, runs: int) -> None:
    """Of the size that they say, and with settings that the run recipe takes."""
    study = load_scaling_recipe(name)

    def recipe_of(overrides: Sequence[str]) -> Recipe:
        return load_recipe(study.base, [*study.overrides, *overrides])

    ladder = make_ladder(study, recipe_of([]), counter(recipe_of))
    assert len(ladder.rungs) == runs
    assert ladder.held_out is not None
    assert ladder.held_out.flops > 2.9 * ladder.rungs[-1].flops or name == "tiny"
    for rung in (*ladder.rungs, ladder.held_out):
        recipe_of(rung.trial.overrides)
    if name != "tiny":
        slices = valleys([rung.run() for rung in ladder.rungs])
        assert [len(valley.runs) for valley in slices][-3:] == ([4, 4, 4] if name == "quickstart" else [4, 5, 4])


def test_counts_in_names() -> None:
    assert [short_count(value) for value in (640, 1024, 640_000, 1_310_720, 2e9)] == [
        "640", "1.02k", "640k", "1.31m", "2b",
    ]  # fmt: skip
