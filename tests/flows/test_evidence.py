"""A model card tells the corpus, the results and the history of a model, from the workspace that made it."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from flows.evidence import evidence_of
from pipeline.execution import run_stage
from pipeline.stage import Stage, Unit, UnitOutput
from pipeline.store import Store, file_sha256
from tests.flows.job_workspace import Nothing, make_workspace
from training.checkpoints import describe
from training.weights import weights_sha256

RESULTS: dict[str, Any] = {
    "checkpoint": {"step": 20},
    "perplexity": {
        name: {"overall": {"perplexity": value, "bits_per_byte": value / 20}}
        for name, value in (("model", 30.0), ("unigram", 900.0))
    },
    "minimal_pairs": {"blimp": {"overall": {"accuracy": 0.75, "chance": 0.5}}},
}


class Evaluated(Stage[Nothing]):
    """Results as the stage evaluate leaves them."""

    name = "evaluate"
    version = 1

    def identity(self) -> Any:
        return "results"

    def units(self) -> list[Unit]:
        return [Unit(0, "results", {})]

    def process(self, unit: Unit, output: UnitOutput) -> None:
        path = output.scratch / "results.json"
        path.write_text(json.dumps(RESULTS))
        output.adopt("results", path, path.name)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a recipe whose newest model was judged, and a job that made another model of it."""
    root = make_workspace(tmp_path_factory.mktemp("evidence") / "workspace")
    evaluated = run_stage(Evaluated(Nothing(folder="."), {}), Store.at(root / "store"), workers=0)
    path = root / "runs" / "tiny.json"
    record = json.loads(path.read_text())
    record["stages"]["evaluate"] = evaluated.fingerprint
    sources = [{"name": "tiny", "license": "CC0-1.0"}]
    record["recipe"] = {"name": "tiny", "description": "A tiny one.", "ingest": {"sources": sources}}
    path.write_text(json.dumps(record))
    parent = root / "made" / "checkpoints" / "step-00000020"
    child = root / "child"
    shutil.copytree(root / "made" / "checkpoints" / "step-00000010", child)
    facts = describe(child) | {
        "parent": {"checkpoint": str(parent), "sha256": file_sha256(parent / "model.safetensors")}
    }
    (child / "config.json").write_text(json.dumps(facts))
    with (child / "model.safetensors").open("ab") as file:  # other weights than any checkpoint of the run
        file.write(b"\0" * 8)
    job = {
        "kind": "finetuning",
        "name": "cola",
        "fingerprint": "f00d",
        "updated": time.time(),
        "model": {"name": "tiny", "sha256": file_sha256(parent / "model.safetensors")},
        "made": {"sha256": file_sha256(child / "model.safetensors")},
    }
    (root / "jobs").mkdir()
    (root / "jobs" / "cola-f00d.json").write_text(json.dumps(job))
    return root


def test_a_trained_model_has_its_corpus_and_its_results(workspace: Path) -> None:
    found = evidence_of("models:/tiny@best", workspace / "made" / "checkpoints" / "step-00000020", workspace)
    assert (found.recipe, found.description, found.model) == ("tiny", "A tiny one.", "models:/tiny@best")
    assert [(row["source"], row["license"], row["language"]) for row in found.corpus] == [("tiny", "CC0-1.0", "en")]
    assert found.corpus[0]["documents"] == 120
    assert found.corpus[0]["tokens"] > 120
    assert [(row["metric"], row["value"], row["baseline"]) for row in found.results] == [
        ("perplexity", 30.0, "unigram 900"),
        ("bits per byte", 1.5, "unigram 45"),
        ("blimp: minimal pair accuracy", 0.75, "chance 0.5"),
    ]
    assert [row["stage"] for row in found.funnel] == ["tokenize"]
    assert set(found.stages) == {"tokenize", "train", "evaluate"}
    earlier = evidence_of(None, workspace / "made" / "checkpoints" / "step-00000010", workspace)
    assert (earlier.recipe, list(earlier.results)) == ("tiny", [])  # another step was judged


def test_a_model_made_of_another_has_its_history_and_no_results_of_the_other(workspace: Path) -> None:
    found = evidence_of(None, workspace / "child", workspace)
    assert found.steps == ["finetuning: cola (`f00d`), of tiny"]
    assert (found.recipe, found.description, list(found.results)) == ("tiny", None, [])
    assert found.corpus[0]["source"] == "tiny"


def test_a_head_on_the_same_weights_is_another_model(workspace: Path) -> None:
    parent, child = workspace / "made" / "checkpoints" / "step-00000020", workspace / "frozen"
    shutil.copytree(parent, child)
    (child / "head.safetensors").write_bytes(b"a head")
    known = weights_sha256(parent)
    assert known == file_sha256(parent / "model.safetensors") == file_sha256(child / "model.safetensors")
    facts = describe(child) | {"parent": {"checkpoint": str(parent), "sha256": known}}
    (child / "config.json").write_text(json.dumps(facts))
    job = {
        "kind": "finetuning",
        "name": "frozen",
        "fingerprint": "beef",
        "updated": time.time(),
        "model": {"name": "tiny", "sha256": known},
        "made": {"sha256": weights_sha256(child)},
    }
    (workspace / "jobs" / "frozen-beef.json").write_text(json.dumps(job))
    found = evidence_of(None, child, workspace)
    assert found.steps == ["finetuning: frozen (`beef`), of tiny"]
    assert (found.recipe, found.description, list(found.results)) == ("tiny", None, [])
    assert evidence_of(None, parent, workspace).steps == []


def test_a_model_from_elsewhere_has_none(workspace: Path, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger"
    shutil.copytree(workspace / "made" / "checkpoints" / "step-00000010", stranger)
    with (stranger / "model.safetensors").open("ab") as file:
        file.write(b"\1" * 8)
    found = evidence_of(None, stranger, workspace)
    assert (found.recipe, list(found.corpus), list(found.results), list(found.steps)) == (None, [], [], [])
    assert evidence_of(None, stranger, tmp_path / "nowhere").recipe is None
