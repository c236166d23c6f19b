"""The classifier flow against a real Prefect server and a real MLflow store in the workspace."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.classifier import CLASSIFIER_RECIPES, load_classifier_recipe, make_classifier_plan, summary, tracked
from flows.recipe import RecipeError
from pipeline.classifiers.training import model_file
from pipeline.quickstart import find
from pipeline.store import file_sha256
from tests.pipeline.classifiers.corpora import values, write_topics

_RUN = (
    "import sys; from flows.classifier import train_classifier; from flows.sending import TrackingPending\n"
    "try: train_classifier(*sys.argv[1:])\n"
    "except TrackingPending as error: print(error); sys.exit(3)\n"
)


def recipe(folder: Path, **changes: Any) -> Path:
    """Write a recipe over generated topics."""
    given = {
        "name": "topics",
        "description": "The kitchen against the river.",
        "classifier": values(write_topics(folder / "topics")),
        "experiment": "small classifiers",
        "execution": {"workers": 0},
        **changes,
    }
    path = folder / "topics.yaml"
    path.write_text(yaml.safe_dump(given), encoding="utf-8")
    return path


def run(path: Path, workspace: Path, environment: dict[str, str], **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _RUN, str(path), str(workspace)],
        env={**environment, **more},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, prefect_environment: dict[str, str]) -> tuple[Path, Path]:
    """A recipe and the workspace in which it has run. Tests must not change it."""
    folder = tmp_path_factory.mktemp("classifier")
    path, workspace = recipe(folder), folder / "work space"
    done = run(path, workspace, prefect_environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return path, workspace


@pytest.mark.server
def test_the_run_in_mlflow_holds_parameters_figures_and_the_model(finished: tuple[Path, Path]):
    from mlflow import MlflowClient

    path, workspace = finished
    plan = make_classifier_plan(str(path), str(workspace))
    facts = summary(plan)
    assert plan.missing == []
    client = MlflowClient(tracking_uri=f"sqlite:///{workspace / 'mlflow.db'}")
    (experiment,) = [item for item in client.search_experiments() if item.name == "small classifiers"]
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED"
    assert found.info.run_id == facts["mlflow_run"]
    assert found.data.params["classifier.fasttext.dimension"] == "8"
    assert found.data.metrics["held_out/precision"] == pytest.approx(facts["held_out"]["precision"])
    assert found.data.metrics["held_out/recall"] == pytest.approx(facts["held_out"]["recall"])
    assert facts["held_out"]["recall"] > 0.9
    curve = client.get_metric_history(found.info.run_id, "by_threshold/recall")
    assert [(metric.step, metric.value) for metric in sorted(curve, key=lambda metric: metric.step)] == [
        (round(1000 * row["threshold"]), row["recall"]) for row in facts["thresholds"]
    ]
    (dataset,) = found.inputs.dataset_inputs
    profile = json.loads(dataset.dataset.profile)
    assert profile["documents"] == sum(part["train"] for part in facts["documents"].values())
    folder = Path(client.download_artifacts(found.info.run_id, "model"))
    assert file_sha256(folder / "kitchen.bin") == model_file(plan.refs["classifier"].committed()).sha256
    assert json.loads((folder / "kitchen.bin.json").read_text())["held_out"] == facts["held_out"]
    names = {item.path for item in client.list_artifacts(found.info.run_id)}
    assert {"recipe.yaml", "precision_recall.json", "model"} <= names


@pytest.mark.server
def test_prefect_knows_the_flow_and_shows_the_table(finished: tuple[Path, Path], prefect_environment: dict[str, str]):
    from tests.flows.test_main_job import api, artifacts

    flows = {item["name"] for item in api(prefect_environment, "flows/filter", {})}
    assert {"classifier", "classifier-stages"} <= flows
    rows = json.loads(artifacts(prefect_environment, "topics-thresholds")[0]["data"])
    assert [row["threshold"] for row in rows][:3] == [0.05, 0.1, 0.2]
    assert "| precision |" in artifacts(prefect_environment, "topics-summary")[0]["data"]


@pytest.mark.server
def test_a_second_run_trains_nothing_and_logs_no_second_run(
    finished: tuple[Path, Path], prefect_environment: dict[str, str]
):
    from mlflow import MlflowClient

    path, workspace = finished
    before = {file: file.stat().st_mtime_ns for file in (workspace / "store").rglob("*") if file.is_file()}
    again = run(path, workspace, prefect_environment)
    assert again.returncode == 0, again.stderr
    assert before == {file: file.stat().st_mtime_ns for file in (workspace / "store").rglob("*") if file.is_file()}
    client = MlflowClient(tracking_uri=f"sqlite:///{workspace / 'mlflow.db'}")
    (experiment,) = [item for item in client.search_experiments() if item.name == "small classifiers"]
    assert len(client.search_runs([experiment.experiment_id])) == 1
    assert tracked(make_classifier_plan(str(path), str(workspace)))


@pytest.mark.server
def test_a_tracker_that_is_down_does_not_lose_the_model(
    tmp_path: Path, prefect_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    path = recipe(tmp_path)
    lost = run(path, tmp_path / "workspace", prefect_environment, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert lost.returncode == 3, lost.stdout + lost.stderr
    assert "the classifier is finished" in lost.stdout
    assert "could not be reached" in lost.stdout
    plan = make_classifier_plan(str(path), str(tmp_path / "workspace"))
    committed = plan.refs["classifier"].committed()
    assert committed.verify() == []
    assert not tracked(plan)
    sent = run(path, tmp_path / "workspace", prefect_environment)
    assert sent.returncode == 0, sent.stdout + sent.stderr
    assert tracked(make_classifier_plan(str(path), str(tmp_path / "workspace")))


def test_documents_come_from_the_newest_run_of_the_workspace(tmp_path: Path):
    given = yaml.safe_load(recipe(tmp_path).read_text())
    given["classifier"]["negative"] = {"documents": {"stage": "filter", "where": "words > 3"}}
    with pytest.raises(ValueError, match="holds no run whose stage 'filter' is done"):
        make_classifier_plan(given, str(tmp_path / "workspace"))
    runs, store = tmp_path / "workspace" / "runs", tmp_path / "workspace" / "store"
    runs.mkdir(parents=True)
    for age, name in enumerate(("newest", "older", "oldest")):
        stages = {"filter": f"filter-{name}", "annotate": f"annotate-{name}"}
        (runs / f"{name}.json").write_text(json.dumps({"updated": 9.0 - age, "stages": stages}))
    for name in ("older", "oldest"):  # the newest has not got so far
        for stage in ("filter", "annotate"):
            folder = store / stage / f"{stage}-{name}"
            folder.mkdir(parents=True)
            (folder / "manifest.json").write_text("{}")
    inputs = make_classifier_plan(given, str(tmp_path / "workspace")).stages["classifier"].inputs
    assert inputs["negative_documents"].fingerprint == "filter-older"
    assert inputs["signals"].fingerprint == "annotate-older"
    assert set(inputs) == {"positive_sources", "negative_documents", "signals"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("classifier.fasttext.epoch=3", "classifier.fasttext.epoch: unknown key"),
        ("classifier.held_out=2", "classifier.held_out: .*less than 1"),
        ("classifier.positive={}", "neither sources nor documents"),
        ("classifier.positive.sources.0.path=/nowhere/at-all.jsonl", "/nowhere/at-all.jsonl"),
        ("execution.engine=spark", "execution.engine"),
    ],
)
def test_a_wrong_recipe_fails_before_any_work(tmp_path: Path, override: str, message: str):
    with pytest.raises(ValueError, match=message):
        make_classifier_plan(str(recipe(tmp_path)), str(tmp_path / "workspace"), [override])
    assert not (tmp_path / "workspace").exists()


def test_an_unknown_recipe_names_those_that_exist():
    with pytest.raises(RecipeError, match="there is no recipe 'qualty': neither a file nor one of .*quality"):
        load_classifier_recipe("qualty")


def test_the_example_recipes_are_valid(tmp_path: Path):
    names = [path.stem for path in CLASSIFIER_RECIPES.glob("*.yaml")]
    assert "quality" in names
    for name in names:
        load_classifier_recipe(name)
        if find() is not None:  # without the quickstart corpus there is nothing to wire it to
            assert make_classifier_plan(name, str(tmp_path)).missing == [
                "negative_sources",
                "positive_sources",
                "classifier",
            ]
