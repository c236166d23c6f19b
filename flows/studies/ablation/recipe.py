"""The recipe of an ablation: the variants, the seeds, and what they are measured on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field, model_validator

from flows.studies.recipe import StudyRecipe, load_study_recipe
from pipeline.stage import StageConfig

REFERENCE, CONTROL = "reference", "control"


class Variant(StageConfig):
    """The reference with one decision undone or made otherwise."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,59}$", description="Lower case letters, digits and hyphens.")
    overrides: list[str] = Field(
        min_length=1, description="key=value settings of the run recipe that make it, behind the study's own."
    )
    decision: str = Field(
        "", description="The decision of the reference that it tests, as the verdict calls it; by default its name."
    )

    @property
    def tests(self) -> str:
        """The decision in words."""
        return self.decision or self.name


class SeparationConfig(StageConfig):
    """What is taken out of every training part because a held-out document has it, too, under whatever id.

    Held-out text goes through the stage `decontaminate` like an evaluation set, in stretches; a training document that
    has enough of one loses it.
    """

    words: int = Field(8, ge=3, le=32, description="Length of the n-grams that are compared, in words.")
    coverage: float = Field(
        0.5, gt=0, le=1, description="Share of a stretch's words in common n-grams from which on it counts as repeated."
    )
    stretch_characters: int = Field(
        1000, ge=200, description="Length of the stretches: so much of a long held-out document may be repeated alone."
    )


class AblationRecipe(StudyRecipe):
    """Variants of a run recipe beside the recipe itself, which is the reference."""

    EXECUTION: ClassVar[frozenset[str]] = StudyRecipe.EXECUTION | {"data"}

    variants: list[Variant] = Field(min_length=1, description="What is compared with the reference.")
    seeds: list[int] = Field(
        default=[1, 2, 3], min_length=2, description="Of the trainings of the reference and of each variant, in pairs."
    )
    control: bool = Field(
        True,
        description="Train the reference once more under another name and other seeds. The two are equal, so a "
        "difference between them says that no other difference of the study is to be trusted.",
    )
    held_out: list[str] = Field(
        default=[],
        description="key=value settings of the run whose held-out documents all are judged on, and whose tokenizer all "
        "take; by default the reference's own. What a filter keeps flatters that filter: name a wider run here.",
    )
    separation: SeparationConfig = Field(default_factory=SeparationConfig)
    level: float = Field(0.95, gt=0.5, lt=1, description="Probability that all intervals of a table hold at once.")
    resamples: int = Field(1000, ge=100, description="Bootstrap samples of the held-out documents.")
    minimum_documents: int = Field(
        8, ge=2, description="Held-out documents of a source from which on something is said about it."
    )
    suite: str | None = Field(
        None, description="Recipe of `headrace suite` that judges the last checkpoint of each training, too."
    )
    data: str = Field(".", description="Folder that relative paths of the suite's files start from.")

    @model_validator(mode="after")
    def _check(self) -> AblationRecipe:
        names = [variant.name for variant in self.variants]
        for name in names:
            if name in (REFERENCE, CONTROL):
                raise ValueError(f"variants: the name {name!r} is taken; call the variant otherwise")
            if names.count(name) > 1:
                raise ValueError(f"variants: there are two of the name {name!r}")
        if len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds: each must be 0 or more and stand there once, got {self.seeds}")
        for variant in self.variants:
            seeded = [one for one in variant.overrides if one.startswith("train.training.seed=")]
            if seeded:
                raise ValueError(f"variants.{variant.name}: {seeded[0]}: seeds are the study's; name them in `seeds`")
        return self

    @property
    def control_seeds(self) -> list[int]:
        """As many as there are seeds, and none of them."""
        return [max(self.seeds) + 1 + place for place in range(len(self.seeds))] if self.control else []


def load_ablation_recipe(recipe: str | Mapping[str, Any], overrides: Sequence[str] = ()) -> AblationRecipe:
    """Read a recipe by its name in flows/recipes/ablation, its YAML file, or its plain values.

    Raises RecipeError naming the field.
    """
    return load_study_recipe("ablation", AblationRecipe, recipe, overrides)
