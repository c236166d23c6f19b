"""What the recipes of all kinds of studies have in common, and how they are read.

`headrace scaling quickstart` reads flows/recipes/scaling/quickstart.yaml.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from pydantic import Field

from flows.recipe import RECIPES, load_as
from pipeline.stage import StageConfig

KINDS = ("scaling", "transfer", "ablation", "search")
"""The kinds of studies: each a package of flows.studies with a flow, a command and a folder of recipes."""

TRIAL_OVERRIDES = (
    "train.training.keep=1",
    "train.training.checkpoint_every=1000000000",
    "train.training.checkpoint_minutes=5",
    "train.training.statistics_every=0",
    "train.training.samples_every=0",
)
"""Stand before the study's own overrides. A trial keeps its last checkpoint alone (one is always written at the end),
and writes another every five minutes, so that a long one that is killed goes on from there; layer statistics and sample
texts are left out."""


class StudyRecipe(StageConfig):
    """Many trainings of one run recipe. Each kind of study derives its own from this."""

    EXECUTION: ClassVar[frozenset[str]] = frozenset(("description", "experiment", "concurrency", "threads", "limit"))
    """Fields that say how a study is carried out and change no result; a kind adds its own."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", description="Lower case letters, digits and hyphens.")
    description: str = ""
    base: str | dict[str, Any] = Field(description="The run recipe that is varied: a name, a YAML file, or its values.")
    overrides: list[str] = Field(
        default_factory=list,
        description="key=value settings of the run recipe that all trials share, as `headrace run --set` takes them.",
    )
    experiment: str = Field("headrace", min_length=1, description="MLflow experiment of the study and its trials.")
    concurrency: int = Field(1, ge=1, description="Trials at a time, each in a worker process of its own.")
    threads: int | None = Field(
        None, ge=1, description="CPU threads of a trial; by default the cores, shared by the trials of a time."
    )
    limit: str | None = Field(
        "gpu",
        description="Name of a Prefect concurrency limit that a trial occupies while it runs, where the server has one "
        "of that name.",
    )

    def identity(self) -> dict[str, Any]:
        """What decides the results, as plain JSON values."""
        return self.model_dump(mode="json", exclude=set(self.EXECUTION))


R = TypeVar("R", bound=StudyRecipe)


def load_study_recipe(kind: str, model: type[R], recipe: str | Mapping[str, Any], overrides: Sequence[str] = ()) -> R:
    """Read a recipe of a kind of study by its name, its YAML file, or its plain values, with `key=value` overrides.

    Raises RecipeError naming the field.
    """
    return load_as(model, RECIPES / kind, recipe, overrides)
