"""What a job tells MLflow of models that other runs made, in a real store."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.small_models import one_thread, tiny_checkpoint
from training.tracking import JobSender, Sender, find_location, registered_version
from training.weights import weights_sha256

__all__ = ["one_thread"]


def test_numbers_hang_on_the_model_that_another_run_logged(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    location = find_location(tmp_path / "workspace", {})
    checkpoint = tiny_checkpoint(tmp_path / "trained", 10)
    with Sender(tmp_path / "training", location) as training:
        training.start_run("pretraining", "first", {}, fingerprint="1")
        training.log_checkpoint(checkpoint, 10, {"validation/loss": 2.0})
        training.register_best("river", 10)
        training.finish()
        assert training.flush(60)
    logged = training.result("checkpoint 10")
    found = registered_version("models:/river@best", location.tracking_uri)
    assert found == {"name": "river", "version": "1", "run_id": training.run_id, "model_id": logged}
    with pytest.raises(ValueError, match="models:/river@newest"):
        registered_version("models:/river@newest", location.tracking_uri)
    made = tiny_checkpoint(tmp_path / "made", 10, seed=3)
    with JobSender(tmp_path / "job", location) as job:
        job.start_run("jobs", "second", {}, fingerprint="2")
        job.log_used_model("parent", checkpoint, sha256=weights_sha256(checkpoint), name="x", step=10)
        job.log_used_model("stranger", made, sha256="0" * 64, name="stranger")
        job.log_used_model_metrics("parent", {"quiz/accuracy": 0.75}, 10)
        job.log_made_model(made, 10, {"quiz/accuracy": 0.5}, name="brook", parent="parent", tags={"headrace.kind": "k"})
        job.register_best("brook", 10)
        job.log_table("scores", ["task", "value"], [["quiz", 0.5], ["other", None]])
        job.finish()
        assert job.flush(60)
        assert job.failures == {}
    client = MlflowClient(location.tracking_uri)
    model = client.get_logged_model(logged)  # by its weights, from another experiment
    assert {metric.key: metric.value for metric in model.metrics} == {"validation/loss": 2.0, "quiz/accuracy": 0.75}
    used = client.get_run(job.run_id).inputs.model_inputs
    stranger = job.result("model stranger")["model_id"]
    assert {one.model_id for one in used} == {logged, stranger}
    assert (job.is_sent("model stranger"), job.is_sent("model nobody")) == (True, False)
    noted = Path(client.get_logged_model(stranger).artifact_location.removeprefix("file://"), "checkpoint")
    assert [path.name for path in noted.iterdir()] == ["reference.json"]  # noted where it lies, not copied
    version = client.get_model_version_by_alias("brook", "best")
    tags = {
        name: value for name, value in version.tags.items() if name.startswith(("headrace.parent", "headrace.kind"))
    }
    assert tags == {
        "headrace.kind": "k",
        "headrace.parent.model_id": logged,
        "headrace.parent.run": training.run_id,
        "headrace.parent.version": "river/1",
    }
