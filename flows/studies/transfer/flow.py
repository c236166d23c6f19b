"""The flow `transfer`: sweeps of the learning rate at several sizes, with standard parametrisation and with muP.

`headrace transfer width` reads flows/recipes/transfer/width.yaml.
"""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.naming import by_recipe
from flows.studies.study import Study
from flows.studies.transfer.analysis import results_of, transfers
from flows.studies.transfer.page import page_of
from flows.studies.transfer.recipe import load_transfer_recipe
from flows.studies.transfer.trials import trials_of
from pipeline.stage import StageError


@flow(name="transfer", flow_run_name=by_recipe)
def transfer(
    recipe: str | dict[str, Any], workspace: str = "workspace", overrides: list[str] | None = None
) -> dict[str, Any]:
    """Train every size at every rate, and return where the best rate lies at each and how far it moves.

    Raises RecipeError for a recipe or a size that is wrong, StageError where no sweep has enough finished trials.
    """
    loaded = load_transfer_recipe(recipe, overrides or [])
    with Study("transfer", loaded, workspace) as study:
        trials = trials_of(loaded, study.base.recipe.train.model)
        # One of each shape is enough to see what the run recipe refuses, before the corpus is worked on.
        for trial in {trial.overrides[: -1 - len(loaded.rates)]: trial for trial in trials}.values():
            study.plan(trial.overrides)
        study.prepare()
        outcomes = study.run(trials)
        found = transfers(loaded, outcomes)
        results, page = results_of(loaded, found, outcomes), page_of(loaded, found, outcomes)
        results = study.finish(results, page)
    if all(curve.best is None for one in found for curve in one.curves):
        raise StageError("\n".join([f"transfer {loaded.name}: no sweep has an optimum", *page.lines]))
    return results
