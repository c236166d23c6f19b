"""The judging of an ablation's trainings by a suite of tasks: all last checkpoints in one job."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flows.jobs import JobPlan, make_job_plan
from flows.jobs_files import find_files
from flows.jobs_recipe import SUITES, config_of, load_job_recipe
from flows.runner import run_stage
from flows.studies.ablation.recipe import CONTROL, REFERENCE, AblationRecipe
from flows.studies.trial import Outcome
from pipeline.store import file_sha256
from training.comparison import Difference, Settings, compare_metrics

_LOWER_IS_BETTER = ("perplexity", "bits_per_byte", "loss")


def check_suite(recipe: AblationRecipe) -> None:
    """See that the recipe's suite and its files are there, before anything is trained.

    Raises RecipeError for a suite that is wrong, ValueError for a file that is missing, naming it.
    """
    if recipe.suite is not None:
        config = config_of(load_job_recipe(SUITES, recipe.suite), SUITES)
        find_files(config, SUITES.name, Path(recipe.data).resolve())


def plan_suite(recipe: AblationRecipe, workspace: str, checkpoints: Sequence[str]) -> JobPlan:
    """The job that judges checkpoints. Raises RecipeError or ValueError for a suite or a file that is not there."""
    assert recipe.suite is not None
    first, *others = checkpoints
    overrides = [f"suites.checkpoints={json.dumps(others)}", "every_checkpoint=false"]
    if recipe.threads is not None:
        overrides.append(f"execution.threads={recipe.threads}")
    return make_job_plan(SUITES, recipe.suite, workspace, overrides, first, recipe.data)


def judge_by_suite(
    recipe: AblationRecipe, workspace: str, outcomes: Sequence[Outcome], settings: Settings
) -> list[Difference]:
    """Judge the finished trainings by the recipe's suite, inside a flow, and compare each arm with the reference."""
    finished = {outcome.checkpoint: outcome for outcome in outcomes if outcome.finished}
    plan: Any = plan_suite(recipe, workspace, list(finished))
    run_stage(plan, SUITES.name)
    # Known by their weights, which two arms may share: a variant that changes no document trains the same model.
    weights = {
        outcome.trial.name: file_sha256(Path(folder, "model.safetensors")) for folder, outcome in finished.items()
    }
    results = plan.results
    main = [column for column in results["tables"]["checkpoints"]["columns"] if "/" in column]
    judged = {row["checkpoint"]["sha256"]: row["metrics"] for row in results["checkpoints"]}
    values: dict[str, dict[str, dict[int, float]]] = {}
    errors: dict[str, dict[str, list[float]]] = {}
    for outcome in finished.values():
        metrics = judged.get(weights[outcome.trial.name], {})
        arm, seed = str(outcome.trial.parameters["variant"]), int(outcome.trial.parameters["seed"])
        for metric in main:
            if metrics.get(metric) is not None:
                values.setdefault(metric, {}).setdefault(arm, {})[seed] = float(metrics[metric])
                errors.setdefault(metric, {}).setdefault(arm, []).append(float(metrics.get(f"{metric}_error") or 0.0))
    mean_errors = {metric: {arm: float(np.mean(all)) for arm, all in arms.items()} for metric, arms in errors.items()}
    return compare_metrics(values, mean_errors, REFERENCE, is_lower_better, settings, CONTROL)


def is_lower_better(metric: str) -> bool:
    """Whether a smaller value of a metric is the better one."""
    return metric.endswith(_LOWER_IS_BETTER)
