"""What is said of wrong configurations, files, labels and checkpoints."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pydantic
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from tests.training.evaluation.kinds import checkpoint
from tests.training.finetuning.tiny_tasks import TASKS, finetune, one_thread, settings, task
from training.config import from_dict, to_dict
from training.finetuning import main
from training.finetuning.config import FinetuningConfig

__all__ = ["one_thread"]
RECIPES = Path(__file__).parents[3] / "flows" / "recipes" / "finetuning"


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("bert"), "bert")


def broken(folder: Path, kind: str, **changes: Any) -> dict[str, Any]:
    """A task whose second training row is changed."""
    one = task(folder, kind, 16)
    path = Path(one["train"])
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[1] = {name: value for name, value in {**rows[1], **changes}.items() if value is not None}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return one


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("classification", {"text": None}, "line 2: no column 'text'; there are label"),
        ("classification", {"text": ["a"]}, "line 2: text: expected a text"),
        ("regression", {"label": "high"}, "line 2: label: 'high' is no number"),
        ("token_classification", {"label": ["O"]}, "line 2: text and label must be lists of the same length"),
        ("multiple_choice", {"label": 2}, "line 2: label '2' is none of 0, 1"),
        ("question_answering", {"context": "Nothing."}, "line 2: the answer 'reads' does not stand at character"),
        ("question_answering", {"answers": 3}, "line 2: answers: no answers of SQuAD's form"),
    ],
)
def test_broken_rows_are_named(tmp_path: Path, bert: Path, kind: str, changes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        finetune(bert, tmp_path / "out", broken(tmp_path, kind, **changes))


def test_labels_outside_of_the_set(tmp_path: Path, bert: Path) -> None:
    one = {**broken(tmp_path, "classification", label="noun"), "labels": ["name", "verb"]}
    with pytest.raises(ValueError, match=r"classification-train.jsonl: line 2: label 'noun' is none of name, verb"):
        finetune(bert, tmp_path / "out", one)


def test_checkpoints_that_cannot_serve(tmp_path: Path, bert: Path) -> None:
    one = task(tmp_path, "classification", 16)
    copied = tmp_path / "copied"
    shutil.copytree(bert, copied)
    (copied / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"tokenizer.json: missing"):
        finetune(copied, tmp_path / "out", one)
    shutil.copy(bert / "tokenizer.json", copied)
    weights = load_file(copied / "model.safetensors")
    weights["blocks.0.mlp.input.weight"][0, 0] = torch.nan
    save_file(weights, copied / "model.safetensors")
    with pytest.raises(ValueError, match=r"blocks.0.mlp.input.weight holds weights that are no number"):
        finetune(copied, tmp_path / "out", one)
    with pytest.raises(ValueError, match="none: cannot be read|no such file"):
        finetune(tmp_path / "none", tmp_path / "out", one)
    with pytest.raises(ValueError, match="instruction tuning needs a model that reads from left to right"):
        finetune(bert, tmp_path / "out", task(tmp_path, "instruction", 8))


def test_a_task_that_nothing_is_trained_for_is_refused(tmp_path: Path) -> None:
    causal = checkpoint(tmp_path / "gpt", "gpt")
    tasks = [task(tmp_path, "classification", 16), task(tmp_path, "instruction", 8)]
    with pytest.raises(ValueError, match="frozen trains nothing of this model that the task instruction reads"):
        finetune(causal, tmp_path / "out", *tasks, adapter={"method": "frozen"})


def test_a_rate_that_explodes_is_told(tmp_path: Path, bert: Path) -> None:
    one = task(tmp_path, "regression", 64)
    with pytest.raises(ValueError, match="lower learning_rate"):
        finetune(bert, tmp_path / "out", one, learning_rate=1e30, gradient_clip=0.0, warmup=0.0, epochs=9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs must be a positive number"),
        ({"tasks": []}, "tasks must name at least one task"),
        ({"tasks": [{"name": "a b", "kind": "classification", "train": "x"}]}, "name must consist of letters"),
        ({"tasks": [{"name": "a", "kind": "regression", "train": "x", "metrics": ["f1"]}]}, "regression has pearson"),
        ({"tasks": [{"name": "a", "kind": "multiple_choice", "train": "x"}]}, r"columns.choices must be given"),
        ({"tasks": [{"name": "a", "kind": "classification", "train": "none.tsv"}]}, "tasks.a.train: none.tsv: no such"),
        ({"adapter": {"method": "magic"}}, "adapter.method: expected one of full"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, bert: Path, changes: dict[str, Any], message: str) -> None:
    config = settings(bert, tmp_path / "out", task(tmp_path, "classification", 8)) | changes
    with pytest.raises(ValueError, match=message):
        finetune_with(config)


def finetune_with(config: dict[str, Any]) -> None:
    from training.finetuning import run

    run(config)


def test_the_command_tells_of_errors_as_events(tmp_path: Path, bert: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = settings(bert, tmp_path / "out", broken(tmp_path, "regression", label="high"))
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert main(str(tmp_path / "config.json")) == 2
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["event"] == "error"
    assert "'high' is no number" in last["message"]
    (tmp_path / "config.json").write_text(json.dumps(settings(bert, tmp_path / "out", task(tmp_path, "regression", 8))))
    assert main(str(tmp_path / "config.json")) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"start", "progress", "evaluation"} <= {event["event"] for event in events}
    assert events[-1]["event"] == "finished"


def test_recipes_and_pydantic_read_the_same_settings() -> None:
    adapter = pydantic.TypeAdapter(FinetuningConfig)
    recipes = sorted(RECIPES.glob("*.yaml"))
    assert len(recipes) >= 8
    for path in recipes:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
        config = from_dict(FinetuningConfig, recipe["finetuning"])
        assert recipe["name"] == path.stem
        assert recipe["description"]
        assert adapter.validate_python(recipe["finetuning"]) == config
        assert from_dict(FinetuningConfig, json.loads(json.dumps(to_dict(config)))) == config
        assert all(not Path(name).is_absolute() for name in config.files())
    assert {task.kind for path in recipes for task in _tasks(path)} <= set(TASKS)


def _tasks(path: Path) -> tuple[Any, ...]:
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    return from_dict(FinetuningConfig, recipe["finetuning"]).tasks


@pytest.mark.parametrize(
    ("field", "message"), [("quantization", "integers cannot be trained"), ("adapter", "adapter is not merged")]
)
def test_weights_that_are_not_plain_are_refused(tmp_path: Path, bert: Path, field: str, message: str) -> None:
    copied = Path(shutil.copytree(bert, tmp_path / "bert"))
    description = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**description, field: {}}))
    with pytest.raises(ValueError, match=message):
        finetune(copied, tmp_path / "out", task(tmp_path, "classification", 16))
