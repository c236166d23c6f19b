"""Whether a space goes together with the run recipe: tried out on the recipe itself, before anything starts."""

from __future__ import annotations

import copy
import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from flows.plan import Plan
from flows.recipe import RecipeError, load_recipe
from flows.studies.search.recipe import SearchRecipe
from flows.studies.search.space import Space, Value, override

_MOST_CORNERS = 256
_BOOKKEEPING = frozenset(
    f"train.training.{name}"
    for name in "log_every evaluate_every evaluation_batches statistics_every samples_every sample_prompts "
    "checkpoint_every keep keep_every".split()
)
"""Settings that belong to a training's identity, but not to what it learns, or that change how its loss is measured."""


def check_space(recipe: SearchRecipe, plan: Callable[[Sequence[str]], Plan]) -> None:
    """Try the space's corners on the base recipe; `plan` wires up a trial with the overrides that it is given.

    Raises RecipeError for a setting that the run recipe does not have, values that it refuses or would take for others,
    alone or together, and settings that change nothing of the training, or what its loss is measured on.
    """
    for key in recipe.space:
        if key in _BOOKKEEPING:
            raise RecipeError(f"space.{key}: it does not change what is learned, so there is nothing to search")
        if key.startswith("train.objective."):
            raise RecipeError(f"space.{key}: it changes what the loss measures, so losses could not be compared")
    corners = list(_corners(recipe.space, recipe.seed))
    reference = _planned(plan, corners[0])
    given = reference.recipe.given()
    for corner in corners:
        _check_corner(given, corner)
    for key, dimension in recipe.space.items():
        other = next(value for value in dimension.probes() if value != corners[0][key])
        moved = _planned(plan, corners[0] | {key: other})
        changed = {name for name, ref in moved.refs.items() if ref.fingerprint != reference.refs[name].fingerprint}
        if "train" not in changed:
            raise RecipeError(f"space.{key}: it does not change the training, so there is nothing to search")
        if "tokenize" in changed:
            raise RecipeError(
                f"space.{key}: it changes the corpus, and with it the tokens that the loss is measured on, so losses "
                "could not be compared; headrace ablation compares corpora"
            )


def _corners(space: Space, seed: int) -> Iterator[dict[str, Value]]:
    """Combinations of the values that stand for each dimension: all of them, or some where they are too many."""
    probes = [dimension.probes() for dimension in space.values()]
    if math.prod(len(values) for values in probes) <= _MOST_CORNERS:
        chosen: Any = itertools.product(*probes)
    else:
        first = [values[0] for values in probes]
        single = [
            [*first[:place], value, *first[place + 1 :]] for place, values in enumerate(probes) for value in values
        ]
        draw = random.Random(seed)
        drawn = [[draw.choice(values) for values in probes] for _ in range(_MOST_CORNERS)]
        chosen = [*single, [values[-1] for values in probes], *drawn]
    for values in chosen:
        yield dict(zip(space, values, strict=True))


def _planned(plan: Callable[[Sequence[str]], Plan], corner: Mapping[str, Value]) -> Plan:
    try:
        return plan([override(key, value) for key, value in corner.items()])
    except RecipeError as error:
        raise _refused(corner, error) from None


def _check_corner(given: Mapping[str, Any], corner: Mapping[str, Value]) -> None:
    try:
        loaded = load_recipe(copy.deepcopy(dict(given)), [override(key, value) for key, value in corner.items()])
    except RecipeError as error:
        raise _refused(corner, error) from None
    values = loaded.dump()
    for key, value in corner.items():
        found = _at(values, key)
        if not _same(value, found):
            raise RecipeError(
                f"space.{key}: the recipe takes {value!r} for {found!r}; the setting is of another type, or it stands "
                "below a preset that has the last word"
            )


def _refused(corner: Mapping[str, Value], error: RecipeError) -> RecipeError:
    settings = ", ".join(override(key, value) for key, value in corner.items())
    reasons = str(error).partition("\n")[2] or f"  {error}"
    return RecipeError(f"space: the run recipe refuses {settings}:\n{reasons}")


def _at(values: Any, key: str) -> Any:
    for name in key.split("."):
        values = values[int(name)] if isinstance(values, list) else values[name]
    return values


def _same(value: Value, found: Any) -> bool:
    if isinstance(value, bool) or isinstance(found, bool):
        return value is found
    if isinstance(value, float) and isinstance(found, int):
        return False
    return bool(value == found)
