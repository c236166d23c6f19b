"""What MLflow knows of jobs, in a real store: runs, models with their numbers and parents, versions, tables."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from flows import jobs_tracking, sending
from flows.jobs import JobPlan
from flows.jobs_report import refresh_report
from flows.sending import TrackingPending
from flows.tracking import find_checkpoint
from tests.flows.job_workspace import STEPS, make_workspace, write_data
from tests.flows.test_jobs import carry_out, plan_of
from training.tracking import Sender, find_location


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_workspace(tmp_path_factory.mktemp("tracked jobs"))
    write_data(root / "data")
    return root


@pytest.fixture(scope="module")
def told(workspace: Path) -> dict[str, JobPlan]:
    """A judging and a fine-tuning of the same model, of which MLflow was told."""
    plans = {kind: carry_out(plan_of(workspace, kind)) for kind in ("suites", "finetuning")}
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        for plan in plans.values():
            assert not jobs_tracking.tracked(plan)
            jobs_tracking.track(plan)
            assert jobs_tracking.tracked(plan)
    return plans


def test_scores_hang_on_the_models_that_were_judged(
    workspace: Path, told: dict[str, JobPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient, load_table

    plan, uri = told["suites"], find_location(workspace, {}).tracking_uri
    client = MlflowClient(uri)
    facts = jobs_tracking.facts(plan)
    run = client.get_run(facts["mlflow_run"])
    assert run.info.status == "FINISHED"
    assert run.data.params["suites.bootstrap"] == "20"
    models = [client.get_logged_model(one.model_id) for one in run.inputs.model_inputs]
    assert facts["mlflow_model"] in {model.model_id for model in models}
    assert not run.outputs.model_outputs
    by_step = {int(model.tags["headrace.step"]): model for model in models}
    assert sorted(by_step) == list(STEPS)
    for one in plan.results["checkpoints"]:
        model = by_step[one["checkpoint"]["step"]]
        assert model.tags["headrace.weights_sha256"] == one["checkpoint"]["sha256"]
        assert {metric.key: metric.value for metric in model.metrics} == pytest.approx(one["metrics"])
        assert {metric.step for metric in model.metrics} == {one["checkpoint"]["step"]}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "headrace")
    table = load_table("tasks.json", run_ids=[run.info.run_id])
    assert table["metric"].iloc[0] == "accuracy"
    assert len(table) == len(plan.results["tables"]["tasks"]["rows"])


def test_the_made_model_is_a_version_that_names_its_parent(workspace: Path, told: dict[str, JobPlan]) -> None:
    from mlflow import MlflowClient

    plan = told["finetuning"]
    client = MlflowClient(find_location(workspace, {}).tracking_uri)
    version = client.get_model_version_by_alias("books", "best")
    assert version.tags["headrace.kind"] == "finetuning"
    assert version.tags["headrace.parent.sha256"] == plan.model.sha256
    # The judging has made the parent known: the same weights are one model.
    assert version.tags["headrace.parent.model_id"] == jobs_tracking.facts(told["suites"])["mlflow_model"]
    assert "headrace.parent.run" not in version.tags  # no run in MLflow made it
    run = client.get_run(jobs_tracking.facts(plan)["mlflow_run"])
    (output,) = run.outputs.model_outputs
    model = client.get_logged_model(output.model_id)
    assert {metric.key: metric.value for metric in model.metrics} == pytest.approx(plan.results["metrics"])
    assert client.get_metric_history(run.info.run_id, "train/loss")  # from the journal
    folder = find_checkpoint("models:/books@best", str(workspace))
    assert (folder / "head.safetensors").is_file()


def test_telling_it_again_makes_nothing_twice(workspace: Path, told: dict[str, JobPlan]) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(find_location(workspace, {}).tracking_uri)

    def counted() -> list[int]:
        experiments = [one.experiment_id for one in client.search_experiments()]
        return [
            len(client.search_runs(experiments)),
            len(client.search_logged_models(experiments)),
            len(client.search_model_versions("name = 'books'")),
        ]

    before = counted()
    for plan in told.values():
        (plan.tracking_folder / "state.json").unlink()  # what is known is found again in the tracker
        jobs_tracking.track(plan)
    assert counted() == before == [2, 3, 1]


def test_a_job_of_a_made_model_is_led_back_to_its_version(workspace: Path, told: dict[str, JobPlan]) -> None:
    plan = plan_of(workspace, "suites", ("every_checkpoint=false",), model="models:/books@best")
    assert (plan.model.name, plan.model.version["version"]) == ("books", "1")
    assert plan.model.uri == "models:/books@best"
    assert plan.model.sha256 == told["finetuning"].done.manifest["summary"]["model_sha256"]
    assert plan.model.run is not None  # whose tokens and whose marks of contamination count


def test_a_tracker_that_is_down_loses_nothing(
    workspace: Path, told: dict[str, JobPlan], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    untold = shutil.ignore_patterns("tracking", "mlflow.db", "mlruns")
    root = Path(shutil.copytree(workspace, tmp_path / "other", ignore=untold))
    plan = plan_of(root, "suites")
    assert plan.ref.is_committed
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setattr(sending, "SEND_SECONDS", 1.0)
    with pytest.raises(TrackingPending, match="the job is finished: .*start the same command again"):
        jobs_tracking.track(plan)
    assert not jobs_tracking.tracked(plan)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.setattr(sending, "SEND_SECONDS", 120.0)
    jobs_tracking.track(plan)
    assert jobs_tracking.tracked(plan)
    lines = (plan.tracking_folder / "outbox.jsonl").read_text().splitlines()
    assert {json.loads(line)["kind"] for line in lines} >= {"start_run", "log_used_model", "log_table", "finish"}


def test_the_report_of_the_training_is_replaced_in_the_tracker(workspace: Path, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    untold = shutil.ignore_patterns("tracking", "mlflow.db", "mlruns")
    root = Path(shutil.copytree(workspace, tmp_path / "other", ignore=untold))
    plan = plan_of(root, "suites")
    run = plan.model.run
    assert run is not None
    report = root / "reports" / "tiny-0123.html"
    report.parent.mkdir()
    report.write_text("before the model was judged")
    folder = root / "tracking" / run.refs["train"].fingerprint
    with Sender(folder, find_location(str(root), {})) as training:
        run_id = training.start_run("headrace", "tiny", {}, fingerprint=run.refs["train"].fingerprint)
        training.log_artifact(report)
        training.finish()
        assert training.flush()
    assert run_id is not None
    client = MlflowClient(find_location(str(root), {}).tracking_uri)

    def stored() -> str:
        return Path(client.download_artifacts(run_id, report.name, str(tmp_path))).read_text()

    assert stored() == "before the model was judged"
    refreshed = refresh_report(run, str(root))
    assert refreshed == report
    jobs_tracking.track(plan, refreshed)
    assert 'id="suites"' in stored()
    assert client.get_run(run_id).info.status == "FINISHED"
    assert jobs_tracking.tracked(plan)
    report.write_text("written again, while the tracker is down")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        patch.setattr(sending, "SEND_SECONDS", 1.0)
        with pytest.raises(TrackingPending):
            jobs_tracking.track(plan, report)
    assert not jobs_tracking.tracked(plan)  # the same command sends it later
    jobs_tracking.track(plan, report)
    assert stored() == "written again, while the tracker is down"
    assert jobs_tracking.tracked(plan)
