from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.recipe import RECIPES, RecipeError, load_recipe
from tests.flows.tiny import recipe as tiny_recipe
from tests.flows.tiny import write_recipe


@pytest.fixture
def values(tmp_path: Path) -> dict[str, Any]:
    return tiny_recipe(tmp_path / "corpus")


def test_every_recipe_of_the_project_loads():
    names = [path.stem for path in RECIPES.glob("*.yaml")]
    assert "quickstart" in names
    for name in names:
        assert load_recipe(name).name == name


@pytest.mark.parametrize("name", ["tiny", "quickstart"])
def test_what_is_given_loads_as_the_same_recipe(values: dict[str, Any], name: str):
    loaded = load_recipe(values if name == "tiny" else name)
    assert load_recipe(loaded.given()) == loaded


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("filtre", {}, r"filtre: unknown key; did you mean 'filter'\?"),
        ("train.training.step", 5, r"train.training.step: unknown key; did you mean 'steps'\?"),
        ("train.model.widht", 64, r"train.model.widht: unknown key; did you mean 'width'\?"),
        ("train.training.steps", "many", r"train.training.steps: .*integer.*given: 'many'"),
        ("train.training.steps", 0, r"train.training: steps must be at least 1, got 0"),
        ("train.training.sequence_length", 4096, r"train: training.sequence_length \(4096\) must not exceed"),
        ("train.processes", 3, r"train: training.batch_size \(4\) must be a multiple of processes \(3\)"),
        ("train.model", "huge", r"train.model: preset: 'huge' is unknown; there are nano"),
        ("train.model", {"width": 30, "heads": 4}, r"width must be a multiple of heads = 4"),
        ("tokenizer.vocabulary_size", -1, r"tokenizer.vocabulary_size: .*greater than"),
        ("execution.engine", "slurm", r"execution.engine: .*'local', 'dask' or 'ray'"),
        ("name", "Not A Name", r"name: .*pattern"),
    ],
)
def test_a_wrong_recipe_names_the_field(values: dict[str, Any], key: str, value: Any, message: str):
    *parents, last = key.split(".")
    node = values
    for parent in parents:
        node = node.setdefault(parent, {})
    node[last] = value
    with pytest.raises(RecipeError, match=message):
        load_recipe(values)


def test_two_sources_of_one_name_are_refused(values: dict[str, Any]):
    values["ingest"]["sources"].append(values["ingest"]["sources"][0])
    with pytest.raises(RecipeError, match="two sources are named 'english'"):
        load_recipe(values)


def test_overrides_reach_into_mappings_and_lists(values: dict[str, Any], tmp_path: Path):
    path = write_recipe(tmp_path / "recipe.yaml", values)
    loaded = load_recipe(path, ["train.training.steps=7", "ingest.sources.0.name=other", "description=a: b"][:2])
    assert loaded.train.training.steps == 7
    assert loaded.ingest.sources[0].name == "other"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.training.steps", "expected key=value"),
        ("ingest.sources.9.name=x", "'9' is not an index of a list of 4"),
        ("name.first=x", "holds a plain value"),
        ("name=[", "not valid YAML"),
    ],
)
def test_wrong_overrides_are_told(values: dict[str, Any], override: str, message: str):
    with pytest.raises(RecipeError, match=message):
        load_recipe(values, [override])


def test_files_that_are_no_recipes_are_told(tmp_path: Path):
    with pytest.raises(RecipeError, match="there is no recipe 'nowhere'.*quickstart"):
        load_recipe("nowhere")
    for text, message in (("a: [", "not valid YAML"), ("- 1", "must hold a mapping")):
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        with pytest.raises(RecipeError, match=message):
            load_recipe(path)


def test_a_python_object_in_yaml_is_refused(tmp_path: Path):
    path = tmp_path / "recipe.yaml"
    path.write_text("name: !!python/object/apply:os.system ['true']")
    with pytest.raises(RecipeError, match="not valid YAML"):
        load_recipe(path)


def test_the_tiny_recipe_is_plain_yaml(values: dict[str, Any], tmp_path: Path):
    path = write_recipe(tmp_path / "recipe.yaml", values)
    assert yaml.safe_load(path.read_text()) == values
