"""The flow `scaling`: trains a ladder, fits the laws, forecasts a larger run, trains that, and says whether it held.

`headrace scaling quickstart` reads flows/recipes/scaling/quickstart.yaml.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from typing import Any

from prefect import flow, get_run_logger

from flows.naming import by_recipe
from flows.recipe import Recipe
from flows.studies.scaling.arithmetic import counter
from flows.studies.scaling.ladder import Ladder, make_ladder
from flows.studies.scaling.page import page_of
from flows.studies.scaling.recipe import ScalingRecipe, load_scaling_recipe
from flows.studies.scaling.results import Findings, results_of
from flows.studies.study import Study
from flows.studies.trial import Outcome
from flows.training_stages import token_shards
from pipeline.stage import StageError
from pipeline.store import read_json, unwritable, write_json
from training.scaling import Analysis, Forecast, Run, ScalingError, analyse

FORECAST = "forecast.json"


@flow(name="scaling", flow_run_name=by_recipe)
def scaling(
    recipe: str | dict[str, Any], workspace: str = "workspace", overrides: list[str] | None = None
) -> dict[str, Any]:
    """Train the ladder and the held-out run, and return the laws, the forecast and whether it held.

    Raises RecipeError for a recipe or a ladder that is wrong before anything is trained; StageError where too few runs
    finished for any law, naming those that did not.
    """
    loaded = load_scaling_recipe(recipe, overrides or [])
    with Study("scaling", loaded, workspace) as study:

        def recipe_of(overrides: Sequence[str]) -> Recipe:
            return study.plan(overrides).recipe

        make_ladder(loaded, study.base.recipe, counter(recipe_of))  # refused before the corpus is made
        study.prepare()
        tokens = study.base.refs["tokenize"].committed()
        vocabulary = int(tokens.manifest["summary"]["tokenizer"]["vocabulary_size"])
        ladder = make_ladder(loaded, study.base.recipe, counter(recipe_of, vocabulary))
        get_run_logger().info("a ladder of %d runs and %.3g FLOPs", len(ladder.rungs), ladder.flops)
        outcomes = study.run([rung.trial for rung in ladder.rungs])
        unique = sum(shard.tokens for shard in token_shards(tokens) if shard.split == "train")
        findings = Findings(loaded, ladder, tuple(outcomes), unique)
        try:
            analysis = fit(loaded, outcomes, math.log(vocabulary))
        except ScalingError as error:
            findings = dataclasses.replace(findings, problem=str(error))
            study.finish(results_of(findings), page_of(findings))
            raise StageError(f"scaling {loaded.name}: {error}") from None
        findings = dataclasses.replace(findings, analysis=analysis)
        if ladder.held_out is not None:
            findings = _held_out(study, findings, ladder, analysis)
        results = results_of(findings)
        return study.finish(results, page_of(findings))


def fit(recipe: ScalingRecipe, outcomes: Sequence[Outcome], ceiling: float = math.inf) -> Analysis:
    """The laws of the outcomes; those that did not finish are left out by name. Raises ScalingError as `analyse`."""
    runs, left_out = [], {}
    for outcome in outcomes:
        if outcome.finished:
            runs.append(run_of(recipe, outcome))
        else:
            left_out[outcome.trial.name] = f"{outcome.state}: {(outcome.error.splitlines() or [''])[0]}"
    return analyse(
        runs,
        left_out,
        ceiling=ceiling,
        draws=recipe.draws,
        level=recipe.level,
        seed=recipe.seed,
        resample=recipe.resample,
    )


def run_of(recipe: ScalingRecipe, outcome: Outcome) -> Run:
    """A finished training as a point of the laws."""
    parameters = outcome.matrix_parameters if recipe.count == "matrices" else outcome.parameters
    return Run(outcome.trial.name, float(parameters), float(outcome.tokens), outcome.flops, outcome.loss)


def _held_out(study: Study, findings: Findings, ladder: Ladder, analysis: Analysis) -> Findings:
    """Forecast the larger run, put the forecast on record, train the run, and set the two beside each other."""
    recipe, rung = findings.recipe, ladder.held_out
    assert rung is not None
    if recipe.law not in analysis.forecasters:
        return dataclasses.replace(findings, forecast_problem=analysis.problems[recipe.law])
    forecast = analysis.forecasters[recipe.law].forecast(rung.parameters, rung.tokens, recipe.level)
    before = _record(study, analysis, forecast, rung.trial.overrides)
    get_run_logger().info("forecast: loss %.4f (%.4f to %.4f)", forecast.loss, forecast.low, forecast.high)
    (outcome,) = study.run([rung.trial])
    return dataclasses.replace(findings, forecast=forecast, forecast_before=before, held_out=outcome)


def _record(study: Study, analysis: Analysis, forecast: Forecast, overrides: Sequence[str]) -> bool:
    """Write forecast.json; returns whether it was there before the held-out run was trained.

    A forecast that stands there already and says the same, of the same runs, keeps its date.
    """
    path = str(study.folder / FORECAST)
    said = {
        "forecast": dataclasses.asdict(forecast),
        "runs": {run.name: run.loss for run in analysis.runs},
        "left_out": dict(analysis.left_out),
    }
    try:
        known = read_json(path)
        if {name: known[name] for name in said} == _as_json(said):
            return bool(known["before"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    before = not study.plan(overrides).refs["train"].is_committed
    try:
        write_json(path, {**said, "before": before, "time": time.time()})
    except OSError as error:
        raise unwritable(str(study.folder), error) from error
    return before


def _as_json(value: Any) -> Any:
    """What a value is when it has been written and read."""
    if isinstance(value, dict):
        return {name: _as_json(inner) for name, inner in value.items()}
    return [_as_json(inner) for inner in value] if isinstance(value, list | tuple) else value
