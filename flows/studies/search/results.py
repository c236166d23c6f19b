"""What a search came to: the best settings as a run recipe, which settings mattered, and the page that shows it."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from flows.plan import Plan
from flows.recipe import RECIPES, find_recipe
from flows.studies.recipe import TRIAL_OVERRIDES
from flows.studies.search.recipe import SearchRecipe
from flows.studies.search.session import most_trials, search_facts
from flows.studies.search.space import override

if TYPE_CHECKING:
    import optuna

LEAST_FOR_IMPORTANCE = 4
"""Finished trials below which nothing is said of importance."""


def results_of(recipe: SearchRecipe, study: optuna.Study, base: Plan) -> dict[str, Any]:
    """What all workers' trials say together, as JSON values: best settings, history, importance and costs."""
    rows = search_facts(study.get_trials(deepcopy=False))
    finished = [row for row in rows if row["state"] == "finished" and row["loss"] is not None]
    best = min(finished, key=lambda row: (row["loss"], row["number"]), default=None)
    states = {state: sum(row["state"] == state for row in rows) for state in _STATES}
    hours = sum(row["device_hours"] for row in rows)
    metrics = {f"trials_{state}": float(number) for state, number in states.items()} | {"device_hours": hours}
    if best is not None:
        metrics["best_loss"] = best["loss"]
    columns = ["trial", "state", "loss", "device_hours", *recipe.space, "error"]
    table = [
        [row["name"], row["state"], row["loss"], row["device_hours"], *_settings(recipe, row), row["error"]]
        for row in rows
    ]
    return {
        "best": best,
        "states": states,
        "device_hours": hours,
        "importance": importance(recipe, study),
        "best_so_far": _best_so_far(rows),
        "budget": recipe.budget.model_dump(),
        "complete": len(rows) >= most_trials(recipe) and not states["running"],
        "base_values": {key: _at(base.recipe.dump(), key) for key in recipe.space},
        "history": rows,
        "metrics": metrics,
        "tables": {"search": {"columns": columns, "rows": table}},
    }


_STATES = ("finished", "pruned", "diverged", "failed", "running")


def importance(recipe: SearchRecipe, study: optuna.Study) -> dict[str, float]:
    """The share of the losses' variance that each setting accounts for (fANOVA, Hutter et al. 2014).

    Of trials that ran to their end; empty where they are too few or all alike.
    """
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances
    from optuna.trial import TrialState

    losses = {one.value for one in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))}
    if len(losses) < LEAST_FOR_IMPORTANCE:
        return {}
    found = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=recipe.seed))
    return {key: float(share) for key, share in found.items() if math.isfinite(share)}


def best_recipe(recipe: SearchRecipe, settings: Mapping[str, Any], loss: float, base: Plan) -> str:
    """A run recipe with the best settings as YAML; its training is the trial's own, to the bit.

    It extends the base recipe where that is a name or a file, and holds all of it where it is not.
    """
    overrides = [*TRIAL_OVERRIDES, *recipe.overrides]
    chosen = [override(key, value) for key, value in settings.items()]
    if isinstance(recipe.base, str) and not any(_in_a_list(one) for one in [*overrides, *chosen]):
        found = find_recipe(recipe.base)
        named = found.parent == RECIPES
        values: dict[str, Any] = {"extends": found.stem if named else str(found.resolve())}
        for one in [*overrides, *chosen]:
            key, _, text = one.partition("=")
            _set(values, key, yaml.safe_load(text))
    else:
        values = base.recipe.given()  # with the overrides
        if not isinstance(recipe.base, str):
            values = copy.deepcopy(recipe.base)
            for one in overrides:
                _set(values, one.partition("=")[0], yaml.safe_load(one.partition("=")[2]))
        for key, value in settings.items():
            _set(values, key, value)
    values = {"extends": values.pop("extends")} | values if "extends" in values else values
    values["name"] = f"{recipe.name}-best"
    values["description"] = f"Best settings that the search {recipe.name} found."
    head = (
        f"# Held-out loss {loss:.4f} nats per token. As it stands, headrace run takes over that trial's training.\n"
        + "".join(f"# The search held fixed: {one}\n" for one in recipe.overrides)
    )
    return head + yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)


def write_best(folder: Path, text: str) -> Path:
    """Write the best settings beside the study's results."""
    from pipeline.store import write_bytes_atomically

    path = folder / "best.yaml"
    write_bytes_atomically(str(path), text.encode())
    return path


def _in_a_list(setting: str) -> bool:
    return any(part.isdigit() for part in setting.partition("=")[0].split("."))


def _set(values: Any, key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for name in parents:
        if isinstance(values, list):
            values = values[int(name)]
        else:
            if not isinstance(values.get(name), dict | list):
                values[name] = {}
            values = values[name]
    if isinstance(values, list):
        values[int(last)] = value
    else:
        values[last] = value


def _settings(recipe: SearchRecipe, row: Mapping[str, Any]) -> list[Any]:
    return [row["settings"].get(key) for key in recipe.space]


def _best_so_far(rows: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """[trial, lowest loss up to there] of each finished trial."""
    best, found = math.inf, []
    for row in rows:
        if row["state"] == "finished" and row["loss"] is not None:
            best = min(best, row["loss"])
            found.append([row["number"], best])
    return found


def _at(values: Any, key: str) -> Any:
    for name in key.split("."):
        if isinstance(values, list):
            values = values[int(name)]
        else:
            values = values.get(name) if isinstance(values, dict) else None
    return values
