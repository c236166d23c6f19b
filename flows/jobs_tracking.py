"""What MLflow is told of a job: a run of its own, whose numbers hang on the model that they belong to."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.jobs_files import digest
from flows.jobs_models import WorkspaceRun
from flows.jobs_recipe import ModelJobRecipe
from flows.jobs_stage import JOURNAL, work_folder
from flows.sending import deliver, failing_with, sending
from pipeline.store import read_json
from training.tracking import JobSender, Sender, find_location
from training.weights import weights_sha256

if TYPE_CHECKING:
    from flows.jobs import JobPlan

_MODEL = "judged"


@contextlib.contextmanager
def following(plan: JobPlan) -> Iterator[None]:
    """Send the job's metrics to MLflow while it runs; a tracker that is down neither stops nor slows it."""
    with sending(_sender(plan)) as sender:
        _open_run(plan, sender)
        with failing_with(sender):
            yield


def track(plan: JobPlan, report: Path | None = None) -> None:
    """Tell MLflow all about a finished job; `report` takes the place of the one of the training that made the model.

    Raises TrackingPending where MLflow cannot be reached or refuses something.
    """
    if not _told(plan):
        _tell(plan)
    training = _training_sender(plan)
    if report is not None and training is not None:
        with sending(training) as sender:
            sender.log_artifact(report)
            deliver(sender, f"the job is finished: {plan.ref.path}, and {report} is written anew")


def _tell(plan: JobPlan) -> None:
    results = plan.results
    with sending(_sender(plan)) as sender:
        _open_run(plan, sender)
        _tell_metrics(plan, sender, results)
        for name, table in results["tables"].items():
            sender.log_table(name, table["columns"], table["rows"])
        for file in plan.done.files("artifacts"):
            folder = Path(file.path).relative_to(plan.ref.path).parent
            sender.log_artifact(file.path, str(folder))
        sender.log_artifact(plan.done.files("results")[0].path)  # the last one: see _END
        sender.finish()
        deliver(sender, f"the job is finished: {plan.ref.path}")


def tracked(plan: JobPlan) -> bool:
    """Whether MLflow has got everything about this job, as far as the files here tell."""
    training = _training_sender(plan)
    return _told(plan) and (training is None or training.is_done())


def _told(plan: JobPlan) -> bool:
    if not plan.tracking_folder.is_dir():
        return False
    sender = JobSender(plan.tracking_folder, plan.location, _journal(plan))
    keys = [_END, _register_key(plan.recipe)] if isinstance(plan.recipe, ModelJobRecipe) else [_END]
    return all(sender.is_sent(key) for key in keys) and sender.is_done()


def facts(plan: JobPlan) -> dict[str, Any]:
    """Where a job stands in MLflow: its run, and of a model that it made the name and the version."""
    sender = JobSender(plan.tracking_folder, plan.location) if plan.tracking_folder.is_dir() else None
    found: dict[str, Any] = {
        "mlflow_run": sender.run_id if sender else None,
        "mlflow": plan.location.tracking_uri,
        "mlflow_model": (sender.result(f"model {_MODEL}") or {}).get("model_id") if sender else None,
    }
    if isinstance(plan.recipe, ModelJobRecipe):
        found["registered"] = f"models:/{_model_name(plan.recipe)}@{plan.recipe.alias}"
        found["version"] = sender.result(_register_key(plan.recipe)) if sender else None
    return found


def shown(uri: str) -> str:
    """How to look into MLflow."""
    return f"mlflow ui --backend-store-uri {uri}" if uri.startswith("sqlite") else uri


_END = "artifact /results.json"
"""The request that is asked only when all results are there."""


def _tell_metrics(plan: JobPlan, sender: JobSender, results: Mapping[str, Any]) -> None:
    """The numbers, on the model that the job made, or on the one that it judged and its other checkpoints."""
    if not isinstance(plan.recipe, ModelJobRecipe):
        _tell_scores(plan, sender, results)
        return
    made = plan.made
    assert made is not None
    step = int(read_json(str(made / "config.json")).get("step") or 0)
    name = _model_name(plan.recipe)
    parent = {"headrace.kind": plan.kind.name, "headrace.parent.sha256": plan.model.sha256}
    if plan.model.uri is not None:
        parent["headrace.parent.uri"] = plan.model.uri
    sender.log_made_model(made, step, results["metrics"], name=name, parent=_MODEL, tags=parent)
    sender.register_best(name, step, plan.recipe.alias)


def _tell_scores(plan: JobPlan, sender: JobSender, results: Mapping[str, Any]) -> None:
    """The scores of each model that was judged, on that model."""
    sender.log_used_model_metrics(_MODEL, results["metrics"], plan.model.step)
    values = plan.stage.files.values(plan.stage.job_config)
    folders = {weights_sha256(Path(folder), digest): Path(folder) for folder in values["checkpoints"]}
    for other in results["checkpoints"]:
        checkpoint = other["checkpoint"]
        if checkpoint["sha256"] not in folders or checkpoint["sha256"] == plan.model.sha256:
            continue
        folder, step = folders[checkpoint["sha256"]], int(checkpoint["step"] or 0)
        key = f"{_MODEL} {checkpoint['sha256'][:12]}"
        logged = _logged_model(plan.workspace, plan.model.run, checkpoint["sha256"], step)
        siblings = plan.model.run.checkpoints if plan.model.run is not None else {}
        name = plan.model.name if checkpoint["sha256"] in siblings else checkpoint["name"]
        sender.log_used_model(key, folder, sha256=checkpoint["sha256"], name=name, step=step, model_id=logged)
        sender.log_used_model_metrics(key, other["metrics"], step)


def _open_run(plan: JobPlan, sender: JobSender) -> None:
    model = plan.model
    sender.start_run(
        plan.recipe.experiment,
        plan.recipe.name,
        plan.recipe.model_dump(mode="json"),
        fingerprint=plan.ref.fingerprint,
        tags={
            "headrace.kind": plan.kind.name,
            "headrace.model": str(model.folder),
            "headrace.model_sha256": model.sha256,
            f"headrace.stage.{plan.kind.name}": plan.ref.fingerprint,
        },
        wait_seconds=0.0,
    )
    sender.log_used_model(
        _MODEL,
        model.folder,
        sha256=model.sha256,
        name=model.name,
        step=model.step,
        model_id=model.version.get("model_id") or _logged_model(plan.workspace, model.run, model.sha256, model.step),
    )
    digests = plan.stage.files.digests()
    if digests:
        content = hashlib.sha256("".join(sha256 for _, sha256 in digests).encode()).hexdigest()
        sizes = {"files": len(digests), "bytes": sum(path.stat().st_size for path, _ in digests)}
        source = str(plan.stage.files.data)
        sender.log_dataset(f"{plan.recipe.name} {plan.kind.name}", content, source, context=plan.kind.name, **sizes)


def _training_sender(plan: JobPlan) -> Sender | None:
    """What tells MLflow of the training whose report shows the job's scores; None where there is no such training."""
    run = plan.model.run
    if isinstance(plan.recipe, ModelJobRecipe) or run is None:
        return None
    folder = Path(plan.workspace, "tracking", run.refs["train"].fingerprint)
    journals = run.train.files("metrics")
    return Sender(folder, plan.location, journals[0].path if journals else None) if folder.is_dir() else None


def _logged_model(workspace: str, run: WorkspaceRun | None, sha256: str, step: int) -> str | None:
    """The LoggedModel that a training in the workspace logged a checkpoint as, if it has."""
    if run is None or sha256 not in run.checkpoints:
        return None
    folder = Path(workspace, "tracking", run.refs["train"].fingerprint)
    if not folder.is_dir():
        return None
    found: str | None = Sender(folder, find_location(workspace)).result(f"checkpoint {step}")
    return found


def _sender(plan: JobPlan) -> JobSender:
    return JobSender(plan.tracking_folder, plan.location, _journal(plan))


def _journal(plan: JobPlan) -> Path:
    """The job's journal: the committed one, or the one that is being written."""
    if plan.ref.is_committed:
        files = plan.done.files("metrics")
        return Path(files[0].path) if files else Path(plan.ref.path, "metrics", JOURNAL)
    return work_folder(plan.ref) / JOURNAL


def _model_name(recipe: ModelJobRecipe) -> str:
    return recipe.model_name or recipe.name


def _register_key(recipe: ModelJobRecipe) -> str:
    return f"register {_model_name(recipe)} {recipe.alias}"
