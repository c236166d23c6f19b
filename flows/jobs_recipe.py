"""Recipes of the jobs on a finished model: fine-tuning, judging by suites of tasks, compression.

`headrace finetune cola` reads flows/recipes/finetuning/cola.yaml. A recipe names the model and holds, under the name of
its kind, the configuration that `python -m training.<kind>` takes.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, create_model

from flows.recipe import RECIPES, load_as
from pipeline.stage import StageConfig


@dataclass(frozen=True)
class Kind:
    """A kind of job: the package that does it, and what it is called."""

    name: str
    """Of the package in training, of the section of a recipe, of the stage in the store and of the recipes' folder."""
    config_class: str
    """Dataclass of training.<name>.config."""
    command: str
    """Of the command line, and of the Prefect flow."""
    version: int
    """Of the stage: changes when its output would."""
    makes_model: bool

    @property
    def recipes(self) -> Path:
        """The folder of its recipes."""
        return RECIPES / self.name

    @property
    def config(self) -> Any:
        """The dataclass of its configuration."""
        return getattr(importlib.import_module(f"training.{self.name}.config"), self.config_class)


FINETUNING = Kind("finetuning", "FinetuningConfig", "finetune", 1, makes_model=True)
SUITES = Kind("suites", "SuiteConfig", "suite", 2, makes_model=False)
COMPRESSION = Kind("compression", "CompressionConfig", "compress", 1, makes_model=True)
KINDS = {kind.name: kind for kind in (FINETUNING, SUITES, COMPRESSION)}


class JobExecution(StageConfig):
    """How a job is carried out; nothing here changes what it writes."""

    threads: int | None = Field(None, ge=1, description="CPU threads of the job's process; by default one a core.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where the job computes.")

    # A job is one unit of work in a process of its own.
    workers: ClassVar[int] = 0
    tasks_per_stage: ClassVar[int] = 1


class JobRecipe(StageConfig):
    """A job on a model; its configuration lies in the section that has the name of its kind."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", description="Lower case letters, digits and hyphens.")
    description: str = ""
    model: str | None = Field(
        None,
        description="models:/<name>@<alias>, a checkpoint folder, or a folder of a model of transformers; null: the "
        "workspace's best.",
    )
    experiment: str = Field("headrace", min_length=1, description="MLflow experiment of the run.")
    execution: JobExecution = Field(default_factory=JobExecution)


class ModelJobRecipe(JobRecipe):
    """A job that makes a model."""

    model_name: str | None = Field(None, min_length=1, description="Registered model; by default the recipe's name.")
    alias: str = Field("best", min_length=1, description="Alias that the newest version takes.")


class SuitesJobRecipe(JobRecipe):
    """A job that judges a model."""

    every_checkpoint: bool = Field(
        False, description="Judge every checkpoint of the training in the workspace that made the model, too."
    )


_BASES: dict[str, type[JobRecipe]] = {"suites": SuitesJobRecipe}


@lru_cache
def recipe_class(kind: Kind) -> type[JobRecipe]:
    """The typed recipe of a kind of job."""
    base = _BASES.get(kind.name, ModelJobRecipe)
    section: Any = (kind.config, ...)
    return create_model(f"{kind.config_class.removesuffix('Config')}Recipe", __base__=base, **{kind.name: section})


def load_job_recipe(kind: Kind, recipe: str | Mapping[str, Any], overrides: Sequence[str] = ()) -> JobRecipe:
    """Read a recipe of a kind by its name, its YAML file, or its plain values, with `key=value` overrides.

    Raises RecipeError naming the field.
    """
    return load_as(recipe_class(kind), kind.recipes, recipe, overrides)


def config_of(recipe: JobRecipe, kind: Kind) -> Any:
    """The configuration of the job, the dataclass of its kind."""
    return getattr(recipe, kind.name)


def reads_corpus(kind: Kind, config: Any) -> bool:
    """Whether the job reads the token shards of the corpus that the model was trained on."""
    return kind is COMPRESSION or (kind is SUITES and config.memorization is not None)
