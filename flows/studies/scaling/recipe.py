"""The recipe of a scaling study: which sizes, on how many tokens, and the larger run that is forecast."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from flows.studies.recipe import StudyRecipe, load_study_recipe
from pipeline.stage import StageConfig


class Size(StageConfig):
    """One size of the model."""

    layers: int = Field(ge=1, description="train.model.layers.")
    width: int = Field(ge=1, description="train.model.width.")
    heads: int = Field(ge=1, description="train.model.heads.")
    overrides: list[str] = Field(default_factory=list, description="Further key=value settings of the run recipe.")

    @property
    def name(self) -> str:
        """Width x layers, as in the names of trials."""
        return f"{self.width}x{self.layers}"


class Cell(StageConfig):
    """A size with its training length."""

    size: Size
    tokens: float | None = Field(None, gt=0, description="Tokens of the training.")
    flops: float | None = Field(None, gt=0, description="FLOPs of the training, in the place of tokens.")

    @model_validator(mode="after")
    def _check(self) -> Cell:
        if (self.tokens is None) == (self.flops is None):
            raise ValueError("give either tokens or flops")
        return self


class ScalingRecipe(StudyRecipe):
    """A ladder of sizes by token counts, the laws fitted to it, and a larger run that tests their forecast."""

    EXECUTION: ClassVar[frozenset[str]] = StudyRecipe.EXECUTION | {"budgets"}

    sizes: list[Size] = Field(min_length=3, description="Sizes of the ladder.")
    slices: list[float] = Field(
        default=[],
        description="FLOPs of a run: each size is trained for each, on the tokens that they pay for (IsoFLOP slices).",
    )
    tokens: list[float] = Field(default=[], description="Tokens of a run: each size is trained on each, too.")
    tokens_per_parameter: tuple[float, float] = Field(
        (0.5, 500.0), description="Runs with fewer or more tokens for each parameter are left out of the ladder."
    )
    least_tokens: float = Field(
        0,
        ge=0,
        description="Runs on fewer tokens are left out: in its first steps a training follows no power law.",
    )
    most_tokens: float | None = Field(
        None, gt=0, description="Runs on more tokens are left out, such as those that see the corpus again."
    )
    budget: float | None = Field(
        None, gt=0, description="FLOPs of all runs of the ladder together: it is filled with the cheapest runs first."
    )
    rates: dict[str, float] = Field(
        default={},
        description="Settings of the run recipe that follow the width, such as train.optimizer.learning_rate: "
        "each is the base recipe's times (width / reference_width) to this power.",
    )
    reference_width: int = Field(128, ge=1, description="The width at which `rates` change nothing.")
    warmup: float | None = Field(
        None, ge=0, le=0.5, description="Warm-up as a share of a run's steps; null: the base recipe's steps."
    )
    evaluations: int = Field(
        1, ge=1, description="Held-out evaluations of a run, the last at its end; earlier ones are drawn, not fitted."
    )
    count: Literal["matrices", "all"] = Field(
        "matrices",
        description="What N counts: the parameters that tokens are multiplied with (the N of the trainer's FLOPs), or "
        "all, with the embeddings.",
    )
    held_out: Cell | None = Field(None, description="The larger run that is forecast and then trained; null: none.")
    within: float = Field(0.02, gt=0, lt=1, description="Share of the loss that the forecast may be off.")
    law: Literal["parametric", "combined"] = Field("parametric", description="Chinchilla's law or Kaplan's forecasts.")
    level: float = Field(0.9, gt=0.5, lt=1, description="Of all intervals.")
    draws: int = Field(200, ge=50, description="Draws of the bootstrap.")
    resample: Literal["residuals", "runs"] = Field("residuals", description="What the bootstrap draws.")
    seed: int = Field(1, ge=0, description="Of the draws.")
    budgets: list[float] = Field(
        default=[],
        description="FLOPs for which the best size and tokens are told, beside 1, 10, 100 x the largest run's.",
    )

    @model_validator(mode="after")
    def _check(self) -> ScalingRecipe:
        for name in ("slices", "tokens", "budgets"):
            values = getattr(self, name)
            wrong = [value for value in values if not (math.isfinite(value) and value > 0)]
            if wrong:
                raise ValueError(f"{name} must be positive numbers, got {wrong[0]}")
        if not self.slices and not self.tokens:
            raise ValueError("a ladder needs slices or tokens")
        names = [size.name for size in self.sizes]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"sizes: there are two of {sorted(twice)[0]} (width x layers)")
        low, high = self.tokens_per_parameter
        if not 0 <= low < high:
            raise ValueError(f"tokens_per_parameter must be a lower and an upper limit, got {low:g} and {high:g}")
        return self


def load_scaling_recipe(recipe: str | Mapping[str, Any], overrides: Sequence[str] = ()) -> ScalingRecipe:
    """Read a scaling recipe by name, YAML file or plain values. Raises RecipeError naming the field."""
    return load_study_recipe("scaling", ScalingRecipe, recipe, overrides)
