"""The recipe of a transfer study: which sizes of a model, and which learning rates at each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, model_validator

from flows.studies.recipe import StudyRecipe, load_study_recipe

Parametrization = Literal["standard", "mup"]


class TransferRecipe(StudyRecipe):
    """Sweeps of learning rates at several sizes of one model, with standard parametrisation and with muP."""

    axis: Literal["width", "depth"] = Field("width", description="What grows: train.model.width or train.model.layers.")
    sizes: list[int] = Field(min_length=2, description="Widths, multiples of a head's width, or numbers of layers.")
    base_size: int | None = Field(
        None, ge=1, description="Size at which muP multiplies nothing; by default the smallest."
    )
    rates: dict[str, float] = Field(
        min_length=1,
        description="Settings of the run recipe that are swept together, such as train.optimizer.learning_rate, and "
        "their values at factor 1.",
    )
    factors: list[float] = Field(min_length=3, description="What all rates are multiplied by in the sweep.")
    parametrizations: list[Parametrization] = Field(default=["standard", "mup"], min_length=1)
    standard: Literal["small", "gpt2", "xavier", "he"] = Field(
        "small", description="Initialisation of the standard parametrisation; its rates are the same at every size."
    )
    depth_exponent: float = Field(
        1.0, ge=0.5, le=1.0, description="train.model.mup_depth_exponent, where depth is what grows."
    )
    seeds: list[int] = Field(
        default=[0], min_length=1, description="Of the trainings at each rate; losses are averaged."
    )
    tolerance: float = Field(
        0.01,
        gt=0,
        lt=1,
        description="Share of the loss that the smallest size's best rate may lose at the largest and count as held.",
    )

    @model_validator(mode="after")
    def _check(self) -> TransferRecipe:
        for name in ("sizes", "factors", "seeds", "parametrizations"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name} names a value twice: {values}")
        if min(self.sizes) < 1:
            raise ValueError(f"sizes must be at least 1, got {min(self.sizes)}")
        for name, values in (("factors", self.factors), ("rates", list(self.rates.values()))):
            if any(not (math.isfinite(value) and value > 0) for value in values):
                raise ValueError(f"{name} must be positive numbers, got {values}")
        wrong = [key for key in self.rates if not (key.startswith("train.optimizer.") and key.endswith("rate"))]
        if wrong:
            raise ValueError(f"rates.{wrong[0]} is no learning rate; such as train.optimizer.learning_rate is one")
        return self

    @property
    def smallest(self) -> int:
        """The size whose best rate is taken to the others."""
        return min(self.sizes)


def load_transfer_recipe(recipe: str | Mapping[str, Any], overrides: Sequence[str] = ()) -> TransferRecipe:
    """Read a transfer recipe by name, YAML file or plain values. Raises RecipeError naming the field."""
    return load_study_recipe("transfer", TransferRecipe, recipe, overrides)
