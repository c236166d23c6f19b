"""Another objective over the same corpus: one word in the recipe, and what it leaves in MLflow and in the report."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from tests.flows.conftest import ROOT, Headrace

pytestmark = pytest.mark.server

SMALL = "layers: 1, width: 32, heads: 2, context_length: 64, dropout: 0.0"


def test_a_bert_is_trained_judged_and_exported(finished: Path, tiny_recipe: Path, headrace: Headrace, tmp_path: Path):
    workspace = tmp_path / "work"
    for stage in (finished / "store").iterdir():
        if stage.name not in ("train", "evaluate"):
            shutil.copytree(stage, workspace / "store" / stage.name)
    options = ["-w", str(workspace), "--set", "name=tiny-bert"]
    model = f"train.model={{preset: bert-tiny, {SMALL}}}"
    done = headrace("run", str(tiny_recipe), *options, "--set", model, "--set", "train.objective=bert")
    assert done.returncode == 0, done.stdout + done.stderr
    for what in ("masked accuracy", "unigram", "sentence accuracy", "majority", "pseudo perplexity"):
        assert what in done.stdout, what
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{workspace / 'mlflow.db'}")
    (version,) = client.search_model_versions("name='tiny-bert'")
    metrics = client.get_run(version.run_id).data.metrics
    for name in ("masked_loss", "masked_accuracy", "sentence_accuracy", "pseudo_perplexity"):
        assert f"evaluation/{name}" in metrics
    assert metrics["evaluation/masked_loss"] < metrics["evaluation/masked_loss/baseline/unigram"] + 1.0
    (report,) = (workspace / "reports").glob("tiny-bert-*.html")
    assert "Masked accuracy" in report.read_text(encoding="utf-8")
    exported = headrace("export", "models:/tiny-bert@best", str(tmp_path / "theirs"), "-w", str(workspace))
    assert "AutoModelForPreTraining" in exported.stdout
    text = headrace("generate", "The river", "-w", str(workspace))
    assert text.returncode == 2
    assert "trained on the objective masked cannot continue a text" in text.stderr


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["train.objective=t5"], "train: objective span_corruption needs model.architecture: encoder_decoder"),
        (
            ["train.model={preset: xlnet-tiny, context_length: 64}", "train.objective.permutation.memory_segments=3"],
            "memory_segments",
        ),
    ],
)
def test_what_does_not_go_together_fails_before_any_work(
    settings: list[str], message: str, tiny_recipe: Path, headrace: Headrace, tmp_path: Path
):
    options = [option for setting in settings for option in ("--set", setting)]
    if "xlnet" in settings[0]:
        options += ["--set", "train.objective.name=permutation"]
    failed = headrace("run", str(tiny_recipe), "-w", str(tmp_path), *options)
    assert failed.returncode == 2, failed.stdout + failed.stderr
    assert message in failed.stderr
    assert not list(tmp_path.glob("store/*/*/manifest.json"))


def test_every_recipe_has_a_deployment():
    deployed = yaml.safe_load((ROOT / "deploy" / "prefect.yaml").read_text())["deployments"]
    recipes = {entry["parameters"]["recipe"] for entry in deployed}
    assert {path.stem for path in (ROOT / "flows" / "recipes").glob("*.yaml")} <= recipes
