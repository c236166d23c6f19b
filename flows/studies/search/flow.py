"""The flow `search`: the settings of a run recipe that give the lowest held-out loss, found with Optuna.

`headrace search quickstart` reads flows/recipes/search/quickstart.yaml. Several of them, on this machine or others,
work at the same search where they share its storage.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import yaml
from prefect import flow

from flows.naming import by_recipe
from flows.progress import publish
from flows.recipe import RecipeError
from flows.studies.search.check import check_space
from flows.studies.search.page import page_of
from flows.studies.search.recipe import SearchRecipe, load_search_recipe
from flows.studies.search.results import best_recipe, results_of, write_best
from flows.studies.search.samplers import make_pruner, make_sampler
from flows.studies.search.session import Session, trial_of
from flows.studies.search.storage import OUTCOME, Hearts, hidden, open_storage, open_study, storage_url
from flows.studies.study import Study
from pipeline.stage import StageError


@flow(name="search", flow_run_name=by_recipe)
def search(
    recipe: str | dict[str, Any], workspace: str = "workspace", overrides: list[str] | None = None
) -> dict[str, Any]:
    """Search for the best settings until the budget ends, and return what the trials say together.

    Raises RecipeError for a recipe or a space that is wrong; ValueError for a storage that cannot be used, a study of
    this name that was made with another recipe, and a budget smaller than one run; StageError where no trial finished.
    """
    loaded = load_search_recipe(recipe, overrides or [])
    with Study("search", loaded, workspace) as study:
        check_space(loaded, study.plan)
        training = study.base.recipe.train.training
        steps = _most(loaded, "train.training.steps", training.steps)
        if loaded.pruner is not None and training.evaluate_every >= steps:
            raise RecipeError(
                f"pruner: it would see no loss before the end, since train.training.evaluate_every "
                f"({training.evaluate_every}) is not below train.training.steps ({steps}); set it lower in overrides"
            )
        url = storage_url(loaded.storage, study.workspace)
        storage = open_storage(url)
        optuna_study = open_study(storage, loaded.name, identity_of(loaded, study), hidden(url))
        optuna_study.sampler = make_sampler(loaded.sampler, loaded.space, loaded.seed)
        optuna_study.pruner = make_pruner(loaded.pruner, steps, training.evaluate_every)
        expected = _expected_hours(loaded, study, optuna_study)
        study.prepare()
        _recall(study, optuna_study)
        processes = study.base.recipe.train.processes
        with Hearts(storage) as hearts:
            Session(loaded, study, optuna_study, hearts, processes, expected).run()
        _recall(study, optuna_study)  # what workers beside this one have done since
        results = results_of(loaded, optuna_study, study.base)
        best = results["best"]
        text = None
        if best is not None:
            text = best_recipe(loaded, best["settings"], best["loss"], study.base)
            results["best_recipe"] = str(write_best(study.folder, text))
        page = page_of(loaded, results, text)
        results = study.finish(results, page)
    if best is None:
        raise StageError("\n".join([f"search {loaded.name}: no trial finished", *page.lines[1:]]))
    return results


def identity_of(recipe: SearchRecipe, study: Study) -> dict[str, Any]:
    """What the trials of a search have in common, on any machine: corpus, training, space, sampler and pruner."""
    train = json.loads(json.dumps(study.base.stages["train"].identity()))
    for key in recipe.space:
        section, *parents = key.split(".")
        *parents, last = parents
        node = train if section == "train" else {}
        for name in parents:
            node = node.get(name, {})
        node.pop(last, None)  # what is searched has no value of its own
    values = recipe.model_dump(mode="json", include={"space", "sampler", "pruner", "seed"})
    return {**values, "train": train, "corpus": study.base.refs["tokenize"].fingerprint}


def _most(recipe: SearchRecipe, key: str, given: int) -> int:
    """The largest value that a setting takes in the search."""
    one = recipe.space.get(key)
    return given if one is None else max(value for value in one.probes() if isinstance(value, int))


def _expected_hours(recipe: SearchRecipe, study: Study, optuna_study: Any) -> float | None:
    """Device hours of a whole trial before any has run: by timing a few steps here. None where nothing asks or tells.

    Raises ValueError where the budget is smaller than one run.
    """
    budget = recipe.budget.device_hours
    if budget is None or any(OUTCOME in one.user_attrs for one in optuna_study.get_trials(deepcopy=False)):
        return None
    publish({"stage": "search", "line": "timing a few steps, to compare a trial with the budget"})
    path = study.folder / "base.yaml"
    path.write_text(yaml.safe_dump(study.base.recipe.given(), allow_unicode=True), encoding="utf-8")
    command = [sys.executable, "-m", "flows.cli", "plan", str(path), "--measure", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    hours = json.loads(done.stdout).get("hours") if done.returncode == 0 else None
    if hours is None:
        publish({"stage": "search", "line": "the time of a trial is unknown; the first one tells"})
        return None
    expected = float(hours) * study.base.recipe.train.processes
    if expected > budget:
        raise ValueError(
            f"budget.device_hours ({budget:g}) is smaller than one run: the base recipe's training takes about "
            f"{expected:.3g} device hours by a few steps timed here, and evaluation and checkpoints come on top"
        )
    return expected


def _recall(study: Study, optuna_study: Any) -> None:
    """Take up what other processes recorded in this workspace."""
    told = [one for one in optuna_study.get_trials(deepcopy=False) if OUTCOME in one.user_attrs]
    known = (study.files.read_outcome(trial_of(one), one.user_attrs[OUTCOME].get("fingerprint", "")) for one in told)
    study.recall(outcome for outcome in known if outcome is not None)
