"""The recipe: everything that one run does, as a tree of typed models read from YAML.

Unknown keys, wrong types and impossible combinations fail before any work starts, naming the field.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from flows.reference import ReferenceConfig
from flows.training_stages import EvaluateConfig, TrainConfig
from pipeline.annotate import AnnotateConfig
from pipeline.classify import ClassifyConfig
from pipeline.costs import CostSettings
from pipeline.decontamination.config import DecontaminateConfig
from pipeline.dedup.config import DedupConfig
from pipeline.filter import FilterConfig
from pipeline.ingest import IngestConfig
from pipeline.perplexity.stages import PerplexityConfig, PerplexityModelConfig
from pipeline.privacy.config import PrivacyConfig
from pipeline.stage import StageConfig
from pipeline.tokens.marks import MarksConfig
from pipeline.tokens.stages import TokenizeConfig, TokenizerConfig

RECIPES = Path(__file__).parent / "recipes"


class RecipeError(ValueError):
    """A recipe cannot be used; the message names each field that is wrong and what is allowed."""


class RegisterConfig(StageConfig):
    """Where the model goes in MLflow."""

    experiment: str = Field("headrace", description="MLflow experiment of the run.")
    model_name: str | None = Field(None, description="Registered model; by default the recipe's name.")
    alias: str = Field("best", description="Alias that the newest evaluated version takes.")


class ExecutionConfig(StageConfig):
    """How the run is carried out; nothing here changes what it writes."""

    engine: Literal["local", "dask", "ray"] = Field("local", description="Prefect task runner of the map stages.")
    workers: int | None = Field(None, ge=0, description="Worker processes; by default one for each core. 0: none.")
    tasks_per_stage: int = Field(4, ge=1, description="Prefect tasks that share the units of a stage between them.")


class Recipe(StageConfig):
    """One run from sources to a registered model: a configuration for each stage, in the order of the stages."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", description="Lower case letters, digits and hyphens.")
    description: str = ""
    ingest: IngestConfig
    deduplicate: DedupConfig = Field(default_factory=DedupConfig)
    annotate: AnnotateConfig = Field(default_factory=AnnotateConfig)
    classify: ClassifyConfig | None = Field(None, description="Classifiers to score with; null: no such stage.")
    perplexity_model: PerplexityModelConfig | None = Field(
        None, description="N-gram models to judge by, one a language; null: no perplexities."
    )
    perplexity: PerplexityConfig = Field(default_factory=PerplexityConfig)
    filter: FilterConfig = Field(default_factory=FilterConfig)
    privacy: PrivacyConfig | None = Field(None, description="What is done with personal data; null: nothing.")
    decontaminate: DecontaminateConfig | None = Field(
        None, description="Evaluation sets that the corpus is cleaned of; null: of none."
    )
    reference: ReferenceConfig | None = Field(
        None,
        description="An earlier run whose tokenizer and held-out documents are taken; null: a tokenizer is trained and "
        "documents are held out here.",
    )
    tokenizer: TokenizerConfig = Field(default_factory=TokenizerConfig)
    tokenize: TokenizeConfig = Field(default_factory=TokenizeConfig)
    marks: MarksConfig | None = Field(
        None, description="Where words and sentences begin; null: marked only if the training objective needs it."
    )
    train: TrainConfig = Field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig)
    register_: RegisterConfig = Field(default_factory=RegisterConfig, alias="register")
    execution: ExecutionConfig = Field(default_factory=ExecutionConfig)
    costs: CostSettings = Field(
        default_factory=CostSettings, description="What hours and kilowatt-hours come to; nothing of it is identity."
    )

    @model_validator(mode="after")
    def _check_mixture(self) -> Recipe:
        mixture, sources = self.tokenize.mixture, [source.name for source in self.ingest.sources]
        unknown = sorted(set(mixture) - set(sources))
        if unknown:
            raise ValueError(f"tokenize.mixture: there is no source {unknown[0]!r}; sources: {', '.join(sources)}")
        if mixture and (self.marks is not None or self.train.objective.marks):
            raise ValueError(
                "tokenize.mixture: repeats documents, which cannot be marked by words and sentences; leave it out, or "
                "the section marks and objectives that need it"
            )
        return self

    @model_validator(mode="after")
    def _check_prices(self) -> Recipe:
        ours, own = self.costs.price_per_device_hour, self.train.training.price_per_device_hour
        if ours is not None and own is not None and ours != own:
            raise ValueError(
                f"costs.price_per_device_hour is {ours:g} and train.training.price_per_device_hour {own:g}: give one"
            )
        return self

    @property
    def prices(self) -> CostSettings:
        """The costs, with the price of a device that the training was given, where it was."""
        own = self.train.training.price_per_device_hour
        return self.costs if own is None else self.costs.model_copy(update={"price_per_device_hour": own})

    @property
    def priced_train(self) -> TrainConfig:
        """The training, told what a device costs in an hour."""
        price = self.prices.price_per_device_hour
        training = dataclasses.replace(self.train.training, price_per_device_hour=price or None)
        return self.train.model_copy(update={"training": training})

    @property
    def model_name(self) -> str:
        """The name of the registered model."""
        return self.register_.model_name or self.name

    def dump(self) -> dict[str, Any]:
        """Return the whole recipe with its defaults as plain JSON values."""
        return self.model_dump(mode="json", by_alias=True)

    def given(self) -> dict[str, Any]:
        """Return what the recipe says itself as plain JSON values; `load_recipe` reads them back."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


def load_recipe(recipe: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe by its name (`quickstart`), its YAML file, or its plain values, and apply `key=value` overrides.

    A YAML file may name another recipe that it `extends`: it then says only what differs.

    A key is a path through the tree (`train.training.steps`), a value is YAML. Raises RecipeError naming the field.
    """
    return load_as(Recipe, RECIPES, recipe, overrides)


M = TypeVar("M", bound=StageConfig)


def load_as(model: type[M], folder: Path, recipe: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> M:
    """Read a recipe of any kind, as `load_recipe` does; those with names lie in `folder`."""
    if isinstance(recipe, Mapping):
        where, values = "recipe", copy.deepcopy(dict(recipe))  # overrides stay out of the caller's
    else:
        path = find_recipe(str(recipe), folder)
        where, values = str(path), _with_base(path, folder)
    for override in overrides:
        _apply_override(values, override)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise RecipeError(_explain(model, where, error)) from None


def find_recipe(recipe: str, folder: Path = RECIPES) -> Path:
    """Return the file of a recipe given by name or path. Raises RecipeError listing the names that exist."""
    by_name = folder / f"{recipe}.yaml"
    if by_name.is_file():
        return by_name
    path = Path(recipe)
    if path.is_file():
        return path
    known = sorted(file.stem for file in folder.glob("*.yaml"))
    raise RecipeError(f"there is no recipe {recipe!r}: neither a file nor one of {', '.join(known)}")


def _with_base(path: Path, folder: Path, extended: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The values of a recipe over those of the recipe that it `extends`, and so on.

    Mappings are merged key by key; a list or a plain value takes the place of what was there. A mapping with a `preset`
    names all that it is made of, so it takes the place of the other, too.
    """
    values = _read_yaml(path)
    base = values.pop("extends", None)
    if base is None:
        return values
    if path in extended:
        raise RecipeError(f"{path}: extends {base!r}, which comes round to itself")
    if not isinstance(base, str):
        raise RecipeError(f"{path}: extends must be the name or the file of a recipe, not {base!r}")
    beside = path.parent / base
    found = beside if beside.is_file() else find_recipe(base, folder)
    return _merged(_with_base(found, folder, (*extended, path)), values)


def _merged(base: Any, values: Any) -> Any:
    if not isinstance(base, dict) or not isinstance(values, dict) or "preset" in values:
        return values
    return base | {key: _merged(base.get(key), value) for key, value in values.items()}


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise RecipeError(f"{path} must hold a mapping of stages, it holds {type(values).__name__}")
    return values


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise RecipeError(f"--set {override!r}: expected key=value, such as train.training.steps=100")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {override!r}: the value is not valid YAML: {error}") from None
    *parents, last = key.split(".")
    node: Any = values
    for name in parents:
        node = _child(node, name, key, create=True)
    if isinstance(node, list):
        node[_index(node, last, key)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise RecipeError(f"--set {override!r}: {'.'.join(parents)} holds a plain value, not a mapping")


def _child(node: Any, name: str, key: str, create: bool) -> Any:
    if isinstance(node, list):
        return node[_index(node, name, key)]
    if not isinstance(node, dict):
        raise RecipeError(f"--set {key}: {name!r} lies below a plain value")
    if create and (name not in node or node[name] is None):
        node[name] = {}
    return node[name]


def _index(node: list[Any], name: str, key: str) -> int:
    if not name.isdigit() or int(name) >= len(node):
        raise RecipeError(f"--set {key}: {name!r} is not an index of a list of {len(node)}")
    return int(name)


def _explain(root: type[BaseModel], where: str, error: ValidationError) -> str:
    lines = [f"{where} cannot be used:"]
    for item in error.errors(include_url=False):
        location = [part for part in item["loc"] if not (isinstance(part, str) and part.startswith("function-"))]
        field = ".".join(str(part) for part in location) or "recipe"
        if item["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            lines.append(f"  {field}: unknown key{_suggest(root, location)}")
            continue
        message = item["msg"].removeprefix("Value error, ")
        given = "" if isinstance(item["input"], dict | list) else f" (given: {item['input']!r})"
        lines.append(f"  {field}: {message}{given}")
    return "\n".join(lines)


def _suggest(root: type[BaseModel], location: Sequence[int | str]) -> str:
    model: Any = root
    for part in location[:-1]:
        fields = _fields(model)
        model = fields.get(part) if isinstance(part, str) else model
    allowed = list(_fields(model))
    close = difflib.get_close_matches(str(location[-1]), allowed, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; allowed: {', '.join(allowed)}" if allowed else ""


def _fields(model: Any) -> dict[str, Any]:
    import dataclasses
    import typing

    for candidate in (model, *typing.get_args(model)):
        for inner in (candidate, *typing.get_args(candidate)):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                return {field.alias or name: field.annotation for name, field in inner.model_fields.items()}
            if dataclasses.is_dataclass(inner):
                return {field.name: typing.get_type_hints(inner)[field.name] for field in dataclasses.fields(inner)}
    return {}
