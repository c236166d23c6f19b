"""The ladder: which runs a recipe's sizes, slices, token counts and budget come to, as trials."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

from flows.recipe import Recipe, RecipeError
from flows.studies.scaling.recipe import Cell, ScalingRecipe, Size
from flows.studies.trial import Trial
from training.scaling import Run, ScalingError, check_design

HELD_OUT = "held-out"


@dataclass(frozen=True)
class Arithmetic:
    """What a size costs, as the trainer counts it."""

    flops_per_token: float
    parameters: int
    """All."""
    matrix_parameters: int
    """Those that tokens are multiplied with: a sixth of the FLOPs of a token, without attention's own."""
    tokens_per_step: int


Count = Callable[[Sequence[str]], Arithmetic]
"""From the overrides of a size to its arithmetic."""


@dataclass(frozen=True)
class Rung:
    """A run that is to be trained."""

    trial: Trial
    size: Size
    steps: int
    tokens: int
    flops: float
    parameters: int
    """As the recipe counts them."""

    def run(self, loss: float = 1.0) -> Run:
        """The run with a loss."""
        return Run(self.trial.name, float(self.parameters), float(self.tokens), self.flops, loss)


@dataclass(frozen=True)
class Ladder:
    """The runs, the cheapest first; why others are none; and the held-out run."""

    rungs: tuple[Rung, ...]
    left_out: tuple[str, ...]
    held_out: Rung | None

    @property
    def flops(self) -> float:
        """Of all runs but the held-out one."""
        return sum(rung.flops for rung in self.rungs)


def make_ladder(recipe: ScalingRecipe, base: Recipe, count: Count) -> Ladder:
    """The ladder of a recipe.

    Raises RecipeError where its budget is smaller than one run, where the runs that are left could not be fitted, or
    where the held-out run is no larger than they are.
    """
    counted = {size.name: count(size_overrides(recipe, base, size)) for size in recipe.sizes}
    found: dict[str, Rung] = {}
    left_out: list[str] = []
    for size in recipe.sizes:
        cells = [Cell(size=size, flops=flops) for flops in recipe.slices]
        cells += [Cell(size=size, tokens=tokens) for tokens in recipe.tokens]
        for cell in cells:
            rung = make_rung(recipe, base, cell, counted[size.name])
            reason = _unfit(recipe, rung)
            if reason:
                left_out.append(f"{rung.trial.name} ({reason})")
            else:
                found.setdefault(rung.trial.name, rung)
    rungs = sorted(found.values(), key=lambda rung: rung.flops)
    if not rungs:
        raise RecipeError(f"the ladder of {recipe.name} has no run: {'; '.join(left_out)}")
    if recipe.budget is not None:
        if recipe.budget < rungs[0].flops:
            raise RecipeError(
                f"budget ({recipe.budget:.3g} FLOPs) is smaller than one run: the cheapest, {rungs[0].trial.name}, "
                f"takes {rungs[0].flops:.3g}"
            )
        spent, kept = 0.0, []
        for rung in rungs:
            if spent + rung.flops > recipe.budget:
                left_out.append(f"{rung.trial.name} (over the budget)")
            else:
                spent += rung.flops
                kept.append(rung)
        rungs = kept
    try:
        check_design([rung.run() for rung in rungs], "the ladder")
    except ScalingError as error:
        told = f"; left out: {', '.join(left_out)}" if left_out else ""
        raise RecipeError(f"{recipe.name}: {error}{told}") from None
    return Ladder(tuple(rungs), tuple(left_out), _held_out(recipe, base, count, rungs))


def _held_out(recipe: ScalingRecipe, base: Recipe, count: Count, rungs: Sequence[Rung]) -> Rung | None:
    if recipe.held_out is None:
        return None
    counted = count(size_overrides(recipe, base, recipe.held_out.size))
    rung = make_rung(recipe, base, recipe.held_out, counted, HELD_OUT)
    if rung.flops <= rungs[-1].flops:
        raise RecipeError(
            f"held_out takes {rung.flops:.3g} FLOPs, no more than the ladder's {rungs[-1].trial.name} "
            f"({rungs[-1].flops:.3g}): it must be larger, to be a forecast"
        )
    return rung


def size_overrides(recipe: ScalingRecipe, base: Recipe, size: Size) -> list[str]:
    """The settings of the run recipe that make a size, whatever its training length."""
    settings: dict[str, Any] = {
        "train.model.layers": size.layers,
        "train.model.width": size.width,
        "train.model.heads": size.heads,
    }
    for key, exponent in recipe.rates.items():
        settings[key] = _value(base, key) * (size.width / recipe.reference_width) ** exponent
    return [f"{key}={value!r}" for key, value in settings.items()] + size.overrides


def make_rung(recipe: ScalingRecipe, base: Recipe, cell: Cell, counted: Arithmetic, name: str = "") -> Rung:
    """The run of a cell: whole steps, as near to its tokens or FLOPs as they come."""
    tokens = cell.tokens if cell.tokens is not None else (cell.flops or 0.0) / counted.flops_per_token
    steps = max(1, round(tokens / counted.tokens_per_step))
    trained = steps * counted.tokens_per_step
    parameters = counted.matrix_parameters if recipe.count == "matrices" else counted.parameters
    overrides = [
        *size_overrides(recipe, base, cell.size),
        f"train.training.steps={steps}",
        f"train.training.evaluate_every={-(-steps // recipe.evaluations)}",
    ]
    if recipe.warmup is not None:
        overrides.append(f"train.schedule.warmup_steps={max(1, round(recipe.warmup * steps))}")
    size = cell.size
    # Whole steps: what differs by less than a step is one run, and has one name.
    trial = Trial(
        name or f"{size.name}-{short_count(trained)}",
        tuple(overrides),
        {"layers": size.layers, "width": size.width, "parameters": parameters, "tokens": trained},
    )
    return Rung(trial, size, steps, trained, counted.flops_per_token * trained, parameters)


def _unfit(recipe: ScalingRecipe, rung: Rung) -> str:
    low, high = recipe.tokens_per_parameter
    ratio = rung.tokens / rung.parameters
    if not low <= ratio <= high:
        return f"{ratio:.3g} tokens a parameter"
    most = recipe.most_tokens or math.inf
    return "" if recipe.least_tokens <= rung.tokens <= most else f"{short_count(rung.tokens)} tokens"


def _value(base: Recipe, key: str) -> float:
    """A number of the base recipe. Raises RecipeError where there is none of this name."""
    try:
        value = reduce(getattr, key.split("."), base)
    except AttributeError:
        value = None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RecipeError(f"rates.{key}: the run recipe has no number of this name")
    return float(value)


def short_count(number: float) -> str:
    """A count as a name holds it: 640k, 1.31m, 20.5m."""
    for size, unit in ((1e9, "b"), (1e6, "m"), (1e3, "k")):
        if number >= size:
            return (
                re.sub(r"\.?0+$", "", f"{number / size:.2f}") + unit
                if number < 100 * size
                else f"{number / size:.0f}{unit}"
            )
    return f"{number:.0f}"
