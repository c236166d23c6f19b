"""The recipe of a search: what is varied, who proposes, who stops early, where it is kept, and how much it may take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field, model_validator

from flows.studies.recipe import StudyRecipe, load_study_recipe
from flows.studies.search.samplers import CMAES, TPE, Pruner, Sampler
from flows.studies.search.space import Choice, Space
from pipeline.stage import StageConfig


class Budget(StageConfig):
    """What a search may take, by all its workers together; at the first limit no further trial begins."""

    trials: int | None = Field(None, ge=1, description="Trials; those that fail count, too.")
    device_hours: float | None = Field(
        None, gt=0, description="Hours of a device (GPU, or the machine where there is none) that trials hold it."
    )

    @model_validator(mode="after")
    def _check_limits(self) -> Budget:
        if self.trials is None and self.device_hours is None:
            raise ValueError("name trials, device_hours or both")
        return self


class SearchRecipe(StudyRecipe):
    """A search for the settings of a run recipe that give the lowest held-out loss."""

    EXECUTION: ClassVar[frozenset[str]] = StudyRecipe.EXECUTION | {"budget", "storage"}

    space: Space = Field(min_length=1, description="Settings of the run recipe, and the values that each may take.")
    sampler: Sampler = Field(default_factory=lambda: TPE(name="tpe"), description="Who proposes settings.")
    pruner: Pruner | None = Field(None, description="Who stops trials early by their held-out losses; null: nobody.")
    budget: Budget
    storage: str | None = Field(
        None,
        description="URL of the database that all workers share (sqlite, PostgreSQL, MySQL); null: that of the "
        "environment variable HEADRACE_SEARCH_STORAGE, else studies/search.db in the workspace.",
    )
    seed: int = Field(1, ge=0, description="Of all that is drawn.")

    @model_validator(mode="after")
    def _check_sampler(self) -> SearchRecipe:
        if isinstance(self.sampler, CMAES) and all(isinstance(one, Choice) for one in self.space.values()):
            raise ValueError(
                "sampler cmaes adapts to ranges, and the space has choices alone; take tpe, random or grid"
            )
        return self


def load_search_recipe(recipe: str | Mapping[str, Any], overrides: Sequence[str] = ()) -> SearchRecipe:
    """Read a recipe of a search, as `load_recipe` does. Raises RecipeError naming the field."""
    return load_study_recipe("search", SearchRecipe, recipe, overrides)
