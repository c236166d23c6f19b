"""The classifier job: from positive and negative documents to a model, its held-out figures and its run in MLflow.

`headrace classifier quality` reads flows/recipes/classifiers/quality.yaml. What is committed is never done again. The
model lies in the store before MLflow hears of it: a tracker that is down costs nothing but the message.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from pydantic import Field

from flows.engines import task_runner, without_heartbeat
from flows.naming import by_recipe
from flows.recipe import RECIPES, ExecutionConfig, load_as
from flows.runner import artifact_key, run_stage
from flows.sending import deliver, sending
from pipeline.classifiers.config import SIDES, ClassifierConfig
from pipeline.classifiers.training import (
    SIGNALS_INPUT,
    TrainClassifier,
    documents_input,
    ingest_stage,
    model_file,
    sources_input,
)
from pipeline.stage import Stage, StageConfig
from pipeline.store import Committed, StageRef, Store, is_local, read_json
from training.tracking import Location, Sender, find_location

CLASSIFIER_RECIPES = RECIPES / "classifiers"
COPY_LIMIT_BYTES = 1 << 30
"""Larger models are not copied to MLflow; their path stands in the run's tags."""

_CLASSIFIER = "classifier"


class ClassifierRecipe(StageConfig):
    """One classifier from its documents to its run in MLflow."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", description="Lower case letters, digits and hyphens.")
    description: str = ""
    classifier: ClassifierConfig
    experiment: str = Field("headrace-classifiers", min_length=1, description="MLflow experiment of the run.")
    execution: ExecutionConfig = Field(default_factory=ExecutionConfig)


@dataclass(frozen=True)
class ClassifierPlan:
    """A classifier recipe in a workspace: its stages and their places in the store."""

    recipe: ClassifierRecipe
    workspace: str
    store: Store
    stages: dict[str, Stage[Any]]
    refs: dict[str, StageRef]

    @property
    def missing(self) -> list[str]:
        """The stages that are not committed yet, in order."""
        return [name for name, ref in self.refs.items() if not ref.is_committed]

    @property
    def tracking_folder(self) -> Path:
        """Where what MLflow is told is kept until it has it."""
        return Path(self.workspace, "tracking", self.refs[_CLASSIFIER].fingerprint)

    @property
    def location(self) -> Location:
        """Where MLflow is."""
        return find_location(self.workspace)


def load_classifier_recipe(recipe: str | Mapping[str, Any], overrides: Sequence[str] = ()) -> ClassifierRecipe:
    """Read a classifier recipe by its name (`quality`), its YAML file, or its plain values, with `key=value` overrides.

    Raises RecipeError naming the field.
    """
    return load_as(ClassifierRecipe, CLASSIFIER_RECIPES, recipe, overrides)


def make_classifier_plan(
    recipe: str | Mapping[str, Any], workspace: str, overrides: Sequence[str] = ()
) -> ClassifierPlan:
    """Read a classifier recipe and wire its stages.

    Raises RecipeError for a wrong recipe and ValueError for a source, or a run in the workspace, that is missing.
    """
    loaded = load_classifier_recipe(recipe, overrides)
    root = str(Path(workspace).resolve()) if is_local(workspace) else workspace.rstrip("/")
    store = Store.at(f"{root}/store")
    stages: dict[str, Stage[Any]] = {}
    refs: dict[str, StageRef] = {}
    inputs: dict[str, StageRef] = {}
    config = loaded.classifier
    for side in SIDES:
        ingest = ingest_stage(config, side)
        if ingest is not None:
            name = sources_input(side)
            stages[name] = ingest
            refs[name] = inputs[name] = store.ref(ingest.name, ingest.fingerprint())
        chosen = config.side(side).documents
        if chosen is not None:
            run = _newest_run(root, store, chosen.stage)
            inputs[documents_input(side)] = run[chosen.stage]
            if run["annotate"].is_committed:
                inputs[SIGNALS_INPUT] = run["annotate"]
    stage = TrainClassifier(config, inputs)
    stages[_CLASSIFIER] = stage
    refs[_CLASSIFIER] = store.ref(stage.name, stage.fingerprint())
    return ClassifierPlan(loaded, root, store, stages, refs)


def _newest_run(workspace: str, store: Store, stage: str) -> dict[str, StageRef]:
    """Return the stages of the newest run in which a stage is committed."""
    records = [read_json(str(path)) for path in Path(workspace, "runs").glob("*.json")]
    for record in sorted(records, key=lambda item: item["updated"], reverse=True):
        refs = {name: store.ref(name, fingerprint) for name, fingerprint in record["stages"].items()}
        if refs[stage].is_committed:
            return refs
    raise ValueError(f"{workspace} holds no run whose stage {stage!r} is done; run a recipe there first: headrace run")


@flow(name="classifier", flow_run_name=by_recipe)
def train_classifier(
    recipe: str | dict[str, Any] = "quality", workspace: str = "workspace", overrides: list[str] | None = None
) -> None:
    """Train a classifier of documents, judge it on held-out ones, and log it as a run in MLflow.

    `recipe` is a name, a YAML file or the plain values. Raises TrackingPending where all is done but MLflow could not
    be told: the model is in the store, and the same command tells MLflow later.
    """
    logger = get_run_logger()
    plan = make_classifier_plan(recipe, workspace, overrides or [])
    logger.info(
        "classifier %s in %s: to do: %s", plan.recipe.name, plan.workspace, ", ".join(plan.missing) or "nothing"
    )
    runner = task_runner(plan.recipe.execution.engine)
    with without_heartbeat():
        _run_stages.with_options(task_runner=runner)(plan.recipe.model_dump(mode="json", exclude_unset=True), workspace)
    done = plan.refs[_CLASSIFIER].committed()
    table = done.files("curve")[0].table().to_pylist()
    create_table_artifact(
        table=table,
        key=artifact_key(plan.recipe.name, "thresholds"),
        description="Held-out precision and recall by threshold",
    )
    create_markdown_artifact(key=artifact_key(plan.recipe.name, "summary"), markdown=_markdown(summary(plan)))
    track(plan)
    logger.info("classifier %s: %s", plan.recipe.name, model_file(done).path)


@flow(name="classifier-stages", flow_run_name="classifier-stages")
def _run_stages(recipe: dict[str, Any], workspace: str) -> None:
    plan = make_classifier_plan(recipe, workspace)
    for name, stage in plan.stages.items():
        # Both classes are read by the stage ingest, under whose name its progress is told.
        alone: Any = replace(plan, stages={stage.name: stage}, refs={stage.name: plan.refs[name]})
        run_stage(alone, stage.name)


def track(plan: ClassifierPlan) -> str | None:
    """Tell MLflow about a finished classifier, as a run of its own; returns the run's id.

    Parameters: the recipe. Metrics: held_out/..., and by_threshold/... with the threshold in thousandths as the step.
    Artifacts: the model with its description, and the table of thresholds. Raises TrackingPending where MLflow cannot
    be reached or refuses something.
    """
    done = plan.refs[_CLASSIFIER].committed()
    model, facts = model_file(done), done.manifest["summary"]
    copied = model.bytes <= COPY_LIMIT_BYTES
    with sending(Sender(plan.tracking_folder, plan.location)) as sender:
        sender.start_run(
            plan.recipe.experiment,
            plan.recipe.name,
            plan.recipe.model_dump(mode="json"),
            fingerprint=done.fingerprint,
            tags={
                "headrace.kind": "classifier",
                "headrace.model": model.path,
                "headrace.model_sha256": model.sha256,
                **{f"headrace.stage.{name}": ref.fingerprint for name, ref in plan.refs.items()},
            },
            wait_seconds=0.0,
        )
        training = facts["training"]
        sender.log_dataset(
            plan.recipe.name,
            training["training_text_sha256"],
            plan.refs[_CLASSIFIER].path,
            documents=sum(part["train"] for part in training["documents"].values()),
            text_bytes=done.counts["bytes_out"],
            tokens=training["words"],
        )
        sender.log_metrics({f"held_out/{name}": value for name, value in facts["held_out"].items()}, 0)
        for row in done.files("curve")[0].table().to_pylist():
            known = {f"by_threshold/{name}": value for name, value in row.items() if value is not None}
            sender.log_metrics(known, round(1000 * row["threshold"]))
        for file in done.files("models"):
            if copied or not file.attributes["model"]:
                sender.log_artifact(file.path, "model")
        sender.log_artifact(_write_table(plan, done), "")
        sender.finish()
        deliver(sender, f"the classifier is finished: {model.path}")
    return sender.run_id


def tracked(plan: ClassifierPlan) -> bool:
    """Return whether MLflow has got everything about this classifier, as far as the files here tell."""
    if not plan.tracking_folder.is_dir():
        return False
    sender = Sender(plan.tracking_folder, plan.location)
    return sender.run_id is not None and sender.is_done()


def summary(plan: ClassifierPlan) -> dict[str, Any]:
    """Return the main facts of a finished classifier as JSON values."""
    done = plan.refs[_CLASSIFIER].committed()
    facts = done.manifest["summary"]
    run_id = Sender(plan.tracking_folder, plan.location).run_id if plan.tracking_folder.is_dir() else None
    return {
        "recipe": plan.recipe.name,
        "workspace": plan.workspace,
        "model": model_file(done).path,
        "model_bytes": model_file(done).bytes,
        "documents": facts["training"]["documents"],
        "words": facts["training"]["words"],
        "held_out": facts["held_out"],
        "thresholds": done.files("curve")[0].table().to_pylist(),
        "mlflow_run": run_id,
        "mlflow": plan.location.tracking_uri,
    }


def closing_lines(facts: Mapping[str, Any]) -> list[str]:
    """Return what a person wants to read at the end: the figures, and where the model lies."""
    held_out, parts = facts["held_out"], facts["documents"]
    trained = ", ".join(f"{parts[side]['train']:,} {side}" for side in reversed(SIDES))
    ui = f"mlflow ui --backend-store-uri {facts['mlflow']}" if is_local_tracker(facts["mlflow"]) else facts["mlflow"]
    return [
        f"trained on {trained} documents; on {held_out['documents']:,} held-out ones at 0.5: "
        f"precision [bold]{held_out['precision']:.3f}[/], recall [bold]{held_out['recall']:.3f}[/], "
        f"ROC-AUC [bold]{held_out['roc_auc']:.3f}[/]",
        f"  model      {facts['model']}  ({facts['model_bytes'] / 1e6:.1f} MB)",
        f"  MLflow     {ui}",
    ]


def is_local_tracker(uri: str) -> bool:
    """Whether MLflow is a database file, which its UI opens directly."""
    return uri.startswith("sqlite")


def _write_table(plan: ClassifierPlan, done: Committed) -> Path:
    """Write the table of thresholds in the form that MLflow shows as a table."""
    table = done.files("curve")[0].table()
    path = plan.tracking_folder / "precision_recall.json"
    rows = [list(row.values()) for row in table.to_pylist()]
    path.write_text(json.dumps({"columns": table.column_names, "data": rows}, indent=1), encoding="utf-8")
    return path


def _markdown(facts: Mapping[str, Any]) -> str:
    held_out = "\n".join(f"| {name.replace('_', ' ')} | {value:.4g} |" for name, value in facts["held_out"].items())
    header = "| threshold | precision | recall | F1 | selected |\n|---|---|---|---|---|"
    rows = "\n".join(
        f"| {row['threshold']:g} | {_number(row['precision'])} | {row['recall']:.3f} | {row['f1']:.3f} | "
        f"{row['selected_fraction']:.1%} |"
        for row in facts["thresholds"]
    )
    return f"# {facts['recipe']}\n\n`{facts['model']}`\n\n| held out | |\n|---|---|\n{held_out}\n\n{header}\n{rows}\n"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
