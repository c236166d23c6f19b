"""The study `ablation`: variants of a run recipe, several seeds each, judged on the same held-out documents.

`headrace ablation quickstart`. A study that was killed goes on where it was.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from prefect import flow, get_run_logger

from flows.naming import by_recipe
from flows.studies.ablation.design import (
    check_arm,
    check_recipe,
    common_overrides,
    make_arms,
    make_trials,
    trained_tokens,
)
from flows.studies.ablation.findings import find, lines, results, settings_of
from flows.studies.ablation.held_out import check_apart, read_held, write_held_out
from flows.studies.ablation.page import make_page
from flows.studies.ablation.recipe import AblationRecipe, load_ablation_recipe
from flows.studies.ablation.scoring import score_outcomes
from flows.studies.ablation.suite import check_suite, judge_by_suite
from flows.studies.study import Study


@flow(name="ablation", flow_run_name=by_recipe)
def ablation(
    recipe: str | dict[str, Any], workspace: str = "workspace", overrides: list[str] | None = None
) -> dict[str, Any]:
    """Train variants of a run recipe under several seeds and return which of its decisions earned their place.

    `recipe` is a name in flows/recipes/ablation, a YAML file or the plain values; `overrides` are `key=value` settings
    of it. Raises RecipeError, or ValueError for a file of the suite that is missing, before anything starts, and
    TrackingPending as `Study.finish` does.
    """
    loaded = load_ablation_recipe(recipe, overrides or [])
    check_suite(loaded)
    with Study("ablation", loaded, workspace) as study:
        return carry_out(study, loaded)


def carry_out(study: Study, recipe: AblationRecipe) -> dict[str, Any]:
    """Do the whole study, inside a flow; returns its results."""
    logger = get_run_logger()
    check_recipe(recipe, study.plan)
    study.prepare([recipe.held_out])
    held_out = study.plan(recipe.held_out)
    documents = write_held_out(held_out, study.folder, recipe.separation)
    tokens = held_out.refs["tokenize"].committed()
    held = read_held(tokens)
    arms = make_arms(recipe, common_overrides(study.base, held_out, documents, recipe.separation))
    plans = {}
    for name, overrides in arms.items():
        plans[name] = study.plan(overrides)
        check_arm(name, plans[name])
    study.prepare(list(arms.values()))
    trained = {name: check_apart(name, plan.refs["tokenize"].committed(), tokens) for name, plan in plans.items()}
    trials = make_trials(recipe, arms)
    logger.info("%d trainings, judged on %d held-out documents", len(trials), len(held.text_bytes))
    outcomes = study.run(trials)
    scores, excluded = score_outcomes(study, outcomes, tokens)
    findings = find(recipe, held, trials, scores, excluded)
    if recipe.suite is not None and sum(outcome.finished for outcome in outcomes) > 1:
        findings = replace(findings, suite=judge_by_suite(recipe, study.workspace, outcomes, settings_of(recipe)))
    said = lines(recipe, findings)
    for line in said:
        logger.info(line)
    length = trained_tokens(study.base)
    found = results(findings, trained, length)
    return study.finish(found, make_page(recipe, findings, said, trained, length))
