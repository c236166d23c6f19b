"""The edge to MLflow: what a run tells it, when, and what is told to the user at the end."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flows import contamination
from flows.costs import told as costs
from flows.plan import STAGES, Plan, read_records
from flows.sending import deliver, failing_with, sending
from flows.training_stages import checkpoint_folder
from pipeline.report.scores import Score, main_scores
from pipeline.stage import document_input
from pipeline.store import Committed, StageRef, read_json, write_bytes_atomically
from training.continuing import continues_text
from training.tracking import Location, Sender, find_location, resolve_model


@contextlib.contextmanager
def following(plan: Plan) -> Iterator[None]:
    """Send the training's metrics to MLflow while it runs; a tracker that is down neither stops nor slows it."""
    with sending(_sender(plan)) as sender:
        _open_run(plan, sender)
        with failing_with(sender):
            yield


def register(plan: Plan, report: Path) -> dict[str, Any]:
    """Tell MLflow all about a finished run and register its best checkpoint; returns what `summary` returns.

    Raises TrackingPending where MLflow cannot be reached or refuses something.
    """
    train, evaluate = plan.refs["train"].committed(), plan.refs["evaluate"].committed()
    results = _results(evaluate)
    best = train.manifest["summary"]["best_step"]
    with sending(_sender(plan)) as sender:
        _open_run(plan, sender)
        for step in sorted({file.attributes["step"] for file in train.files("checkpoints")}):
            sender.log_checkpoint(_folder_of_step(train, step), step)
        judged = results["checkpoint"]["step"]
        scores = {**results["metrics"], **contamination.metrics(plan)}
        sender.log_metrics(scores, judged, checkpoint_step=judged)
        sender.log_metrics(costs.metrics(plan), judged)
        sender.log_samples(results["samples"], judged)
        written = [Path(file.path) for file in train.files("samples")]
        for path in (report, Path(evaluate.files("results")[0].path), _write_lineage(plan), *written):
            sender.log_artifact(path)
        sender.register_best(plan.recipe.model_name, best, plan.recipe.register_.alias)
        sender.finish()
        deliver(sender, "the run is finished")
    return summary(plan)


def registered(plan: Plan) -> bool:
    """Return whether MLflow has got everything about this run, as far as the files here tell."""
    if not _folder(plan).is_dir():
        return False
    sender = Sender(_folder(plan), _location(plan))
    return sender.result(_register_key(plan)) is not None and sender.is_done()


def write_report(plan: Plan) -> Path:
    """Write the report of a run as one HTML page and return its path."""
    from pipeline.catalog.scores import judged
    from pipeline.report import render

    path = Path(plan.report_path)
    path.parent.mkdir(parents=True, exist_ok=True)
    suites = [one.committed for one in judged(plan.workspace)]
    page = render(plan.workspace, plan.recipe.dump(), plan.refs, plan.recipe.name, plan.known, suites)
    write_bytes_atomically(str(path), page.encode())
    return path


def summary(plan: Plan) -> dict[str, Any]:
    """Return the main facts of a finished run as JSON values."""
    train = plan.refs["train"].committed()
    results = _results(plan.refs["evaluate"].committed())
    tokens = plan.refs["tokenize"].committed().counts
    sender = Sender(_folder(plan), _location(plan))
    return {
        "recipe": plan.recipe.name,
        "workspace": plan.workspace,
        "documents_read": plan.refs["ingest"].committed().counts["read"],
        "documents_kept": plan.refs[document_input(plan.refs)].committed().counts["kept"],
        "tokens": tokens.get("tokens", 0),
        "steps": train.manifest["summary"]["steps"],
        **_measured(results),
        "minimal_pairs": {name: item["overall"] for name, item in results["minimal_pairs"].items()},
        "contamination": {name: mark.note for name, mark in contamination.marks(plan).items()},
        "model": f"models:/{plan.recipe.model_name}@{plan.recipe.register_.alias}",
        "model_version": sender.result(_register_key(plan)),
        "mlflow_run": sender.run_id,
        "mlflow": _location(plan).tracking_uri,
        "report": plan.report_path,
        "cost": costs.line(plan),
    }


def _measured(results: Mapping[str, Any]) -> dict[str, Any]:
    """The validation loss of the model and its baselines, bits per byte (None where there are none), the objective.

    For models that are trained on more than prediction from left to right also `scores`: the main metrics, each of the
    model and its baselines.
    """
    likelihoods = results.get("perplexity") or {}
    facts: dict[str, Any] = {
        "objective": results["evaluation"].get("objective", "causal"),
        "validation_loss": {name: scores["overall"]["loss"] for name, scores in likelihoods.items()},
        "bits_per_byte": likelihoods["model"]["overall"]["bits_per_byte"] if likelihoods else None,
    }
    if "objective" in results:
        scores = main_scores(results)
        facts["scores"] = {score.name: {"model": score.value, **score.baselines} for score in scores}
        facts["validation_loss"] = facts["scores"].get("loss", {})
    return facts


def result_line(facts: Mapping[str, Any]) -> str:
    """Return what was measured against what, in a line, from the facts of `summary`."""
    if "scores" in facts:
        scores = [
            Score(name, found["model"], {model: value for model, value in found.items() if model != "model"})
            for name, found in facts["scores"].items()
        ]
        return "; ".join(score.told() for score in scores)
    losses = ", ".join(
        f"{'' if name == 'model' else name + ' '}{loss:.3f}" for name, loss in facts["validation_loss"].items()
    )
    bits = "" if facts["bits_per_byte"] is None else f", {facts['bits_per_byte']:.3f} bits per byte"
    return f"validation loss [bold]{losses}[/] nats per token{bits}"


def closing_lines(plan: Plan) -> list[str]:
    """Return what a person wants to read at the end of a run: the result, and where to look."""
    facts = summary(plan)
    workspace = Path(facts["workspace"])
    shown = workspace.relative_to(Path.cwd()) if workspace.is_relative_to(Path.cwd()) else workspace
    option = "" if str(shown) == "workspace" else f" --workspace {shown}"
    return [
        f"[bold]{facts['documents_kept']:,}[/] of {facts['documents_read']:,} documents kept, "
        f"[bold]{facts['tokens']:,}[/] tokens, {result_line(facts)}",
        f"  cost       {facts['cost']}",
        f"  report     {facts['report']}",
        f"  corpus     headrace funnel{option}",
        f"  model      headrace generate 'The river'{option}    ({facts['model']})"
        if continues_text(plan.recipe.train.objective)
        else f"  model      {facts['model']}",
        *(
            [f"  MLflow     mlflow ui --backend-store-uri {facts['mlflow']}"]
            if facts["mlflow"].startswith("sqlite")
            else [f"  MLflow     {facts['mlflow']}"]
        ),
        "  Prefect    prefect server start",
    ]


def summary_markdown(plan: Plan, facts: dict[str, Any]) -> str:
    """Return the main facts of a run as a Prefect markdown artifact."""
    rows = [
        ("documents kept", f"{facts['documents_kept']:,} of {facts['documents_read']:,}"),
        ("tokens", f"{facts['tokens']:,}"),
        *_score_rows(facts),
        ("model", f"`{facts['model']}` (version {facts['model_version']})"),
        ("cost", facts["cost"]),
        ("report", f"`{facts['report']}`"),
        ("MLflow run", f"`{facts['mlflow_run']}` at `{facts['mlflow']}`"),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return f"# {plan.recipe.name}\n\n| | |\n|---|---|\n{table}\n"


def _score_rows(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    if "scores" in facts:
        return [
            (f"{name.replace('_', ' ')}, {model.replace('_', ' ')}", f"{value:.4f}")
            for name, found in facts["scores"].items()
            for model, value in found.items()
        ]
    rows = [(f"validation loss, {name}", f"{loss:.4f}") for name, loss in facts["validation_loss"].items()]
    return rows + ([] if facts["bits_per_byte"] is None else [("bits per byte", f"{facts['bits_per_byte']:.4f}")])


def find_checkpoint(model: str | None, workspace: str) -> Path:
    """Return the checkpoint folder that a user names: `models:/...`, a folder, or by default the workspace's best.

    Raises ValueError saying what is missing.
    """
    if model is not None and model.startswith("models:/"):
        return resolve_model(model, find_location(workspace).tracking_uri)
    if model is not None:
        if not Path(model, "model.safetensors").is_file():
            raise ValueError(f"{model} is no checkpoint folder: it holds no model.safetensors")
        if "format" not in read_json(str(Path(model, "config.json"))):
            raise ValueError(f"{model} is no checkpoint of Headrace; headrace import makes one of transformers' models")
        return Path(model)
    for record in reversed(read_records(workspace)):
        stage = record["stages"]["train"]
        ref = StageRef("train", stage, str(Path(workspace, "store", "train", stage).resolve()))
        if ref.is_committed:
            return checkpoint_folder(ref.committed())
    raise ValueError(f"{workspace} holds no trained model yet; run headrace run first, or name a checkpoint folder")


def _open_run(plan: Plan, sender: Sender) -> None:
    tokens = plan.refs["tokenize"].committed()
    sender.start_run(
        plan.recipe.register_.experiment,
        plan.recipe.name,
        plan.recipe.dump(),
        fingerprint=plan.refs["train"].fingerprint,
        tags={f"headrace.stage.{name}": ref.fingerprint for name, ref in plan.refs.items()} | contamination.tags(plan),
        wait_seconds=0.0,
    )
    sender.log_dataset(
        plan.recipe.name,
        tokens.fingerprint,
        tokens.path,
        documents=tokens.counts["kept"],
        text_bytes=tokens.counts["bytes_out"],
        tokens=tokens.counts["tokens"],
    )


def _sender(plan: Plan) -> Sender:
    return Sender(_folder(plan), _location(plan), _journal(plan))


def _journal(plan: Plan) -> Path:
    """Return the training's journal: the committed one, or the one that is being written."""
    train = plan.refs["train"]
    if train.is_committed:
        return Path(train.committed().files("metrics")[0].path)
    return Path(train.path, "work", "metrics.jsonl")


def _write_lineage(plan: Plan) -> Path:
    """Write which stages, versions, inputs and files made the model, from its shards back to its sources."""
    stages = {name: plan.refs[name].committed().manifest for name in STAGES if name in plan.refs}
    path = _folder(plan) / "lineage.json"
    write_bytes_atomically(str(path), json.dumps(stages, indent=1, sort_keys=True, ensure_ascii=False).encode())
    return path


def _folder_of_step(train: Committed, step: int) -> Path:
    for file in train.files("checkpoints"):
        if file.attributes["step"] == step:
            return Path(file.path).parent
    raise AssertionError(step)


def _results(evaluate: Committed) -> dict[str, Any]:
    return read_json(evaluate.files("results")[0].path)


def _register_key(plan: Plan) -> str:
    return f"register {plan.recipe.model_name} {plan.recipe.register_.alias}"


def _folder(plan: Plan) -> Path:
    return Path(plan.workspace, "tracking", plan.refs["train"].fingerprint)


def _location(plan: Plan) -> Location:
    return find_location(plan.workspace)
