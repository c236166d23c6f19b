"""Every kind of task and every family of models learns, and its checkpoint says the same when it is loaded again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.training.evaluation.kinds import checkpoint
from tests.training.finetuning.tiny_tasks import TASKS, finetune, one_thread, task
from training.finetuning.predictor import FineTuned

__all__ = ["one_thread"]
MAIN = {
    "classification": "accuracy",
    "pair_classification": "accuracy",
    "regression": "spearman",
    "token_classification": "entity_f1",
    "multiple_choice": "accuracy",
    "question_answering": "exact_match",
    "instruction": "accuracy",
}


def check_reloaded(output: Path, results: dict[str, Any], name: str) -> None:
    """The model folder alone gives the scores and the predictions of the fine-tuning."""
    found = FineTuned(output / "model", threads=1).judge("dev", name)
    for metric, value in found.metrics.items():
        assert results["metrics"][f"{name}/dev/{metric}"] == pytest.approx(value, rel=1e-5, abs=1e-6)
    lines = (output / "artifacts" / f"predictions-{name}-dev.jsonl").read_text().splitlines()
    assert len(lines) == len(found.predictions) == 24


@pytest.mark.parametrize("kind", TASKS)
def test_every_kind_beats_its_baseline(tmp_path: Path, kind: str) -> None:
    family = "gpt" if kind == "instruction" else "bert"
    model = checkpoint(tmp_path, family)
    one = task(tmp_path / "data", kind, 256 if kind in ("question_answering", "pair_classification") else 128)
    how = {"epochs": 12, "batch_size": 4} if kind == "instruction" else {"epochs": 5}
    results = finetune(model, tmp_path / "out", one, dropout=0.0, log_every=2, **how)
    metrics = results["metrics"]
    if kind == "instruction":
        assert metrics["instruction/loss"] < 0.5 * losses(tmp_path / "out")[0]
    else:
        assert metrics[f"{kind}/{MAIN[kind]}"] > metrics[f"{kind}/baseline/{MAIN[kind]}"] + 0.2, results["lines"]
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == json.loads(json.dumps(results))
    check_reloaded(tmp_path / "out", results, kind)


def losses(output: Path) -> list[float]:
    """The training losses of the journal."""
    rows = [json.loads(line)["metrics"] for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [row["train/loss"] for row in rows if "train/loss" in row]


@pytest.mark.parametrize("family", ["gpt", "roberta", "albert", "electra", "xlnet", "t5"])
def test_every_family_learns_to_classify(tmp_path: Path, family: str) -> None:
    model = checkpoint(tmp_path, family)
    rate = {"xlnet": 3e-3, "t5": 5e-3}.get(family, 2e-3)
    one = task(tmp_path / "data", "classification", 160)
    results = finetune(model, tmp_path / "out", one, epochs=6, learning_rate=rate, dropout=0.0)
    assert results["metrics"]["classification/accuracy"] > 0.85, results["lines"]
    assert results["parameters"]["trained"] < results["parameters"]["all"]  # a head of words at least is left out
    check_reloaded(tmp_path / "out", results, "classification")


@pytest.mark.parametrize(
    ("method", "merge", "changed"),
    [
        ("frozen", True, "nothing"),
        ("bitfit", True, "bias"),
        ("lora", True, "qkv.weight"),
        ("adalora", True, "qkv.weight"),
        ("lora", False, "nothing"),
        ("houlsby", True, "norm."),
    ],
)
def test_adapters_change_what_they_train_alone(tmp_path: Path, method: str, merge: bool, changed: str) -> None:
    parent = checkpoint(tmp_path, "bert")
    one = task(tmp_path / "data", "classification", 48)
    adapter = {"method": method, "rank": 4, "bottleneck": 8, "targets": ["query", "value"]}
    results = finetune(parent, tmp_path / "out", one, adapter=adapter, learning_rate=1e-2, merge=merge, epochs=2)
    folder = tmp_path / "out" / "model"
    plain = method != "houlsby" and merge
    assert results["merged"] is plain
    assert (folder / "adapter.safetensors").exists() is not plain
    assert results["parameters"]["trained"] < 0.2 * results["parameters"]["all"]
    before, after = (load_file(path / "model.safetensors") for path in (parent, folder))
    assert before.keys() == after.keys()
    different = [name for name in before if not torch.equal(before[name], after[name])]
    assert all(changed in name for name in different)
    assert bool(different) is (changed != "nothing")
    check_reloaded(tmp_path / "out", results, "classification")


def test_a_prefix_leaves_less_room_for_text(tmp_path: Path) -> None:
    one = task(tmp_path / "data", "classification", 64)
    adapter = {"method": "prefix", "prefix_tokens": 5}
    results = finetune(checkpoint(tmp_path, "bert"), tmp_path / "out", one, adapter=adapter, learning_rate=1e-2)
    described = json.loads((tmp_path / "out" / "model" / "config.json").read_text())
    assert described["task"]["max_length"] == 64 - 5
    assert not results["merged"]
    check_reloaded(tmp_path / "out", results, "classification")


def test_several_tasks_share_a_trunk(tmp_path: Path) -> None:
    tasks = [task(tmp_path / "data", kind, 96) for kind in ("classification", "token_classification", "regression")]
    model = checkpoint(tmp_path, "bert")
    results = finetune(model, tmp_path / "out", *tasks, epochs=5, sampling_temperature=2.0, dropout=0.0)
    metrics = results["metrics"]
    for name, metric in (("classification", "accuracy"), ("token_classification", "entity_f1")):
        assert metrics[f"{name}/{metric}"] > metrics[f"{name}/baseline/{metric}"] + 0.2
        check_reloaded(tmp_path / "out", results, name)
    described = json.loads((tmp_path / "out" / "model" / "config.json").read_text())
    assert [one["name"] for one in described["task"]["tasks"]] == [one["name"] for one in tasks]
    assert described["parent"]["sha256"] == results["checkpoint"]["sha256"]


def test_predictions_need_no_labels(tmp_path: Path) -> None:
    tasks = [task(tmp_path / "data", kind, 32) for kind in TASKS if kind != "instruction"]
    finetune(checkpoint(tmp_path, "bert"), tmp_path / "out", *tasks, epochs=0.5)
    tuned = FineTuned(tmp_path / "out" / "model", threads=1)
    for one in tasks:
        rows = [json.loads(line) for line in Path(one["dev"]).read_text().splitlines()][:3]
        bare = [{name: value for name, value in row.items() if name not in ("label", "answers")} for row in rows]
        assert tuned.predict(bare, one["name"]) == tuned.predict(rows, one["name"])
    with pytest.raises(ValueError, match=r"row 1: no column 'text'; there are sentence, label"):
        tuned.predict([{"sentence": "the man"}], "classification")
    with pytest.raises(ValueError, match="task must be one of classification"):
        tuned.predict([])
