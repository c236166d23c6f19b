"""The jobs on a finished model: fine-tuning, judging by suites of tasks, compression, each a flow with a recipe.

`headrace finetune cola` reads flows/recipes/finetuning/cola.yaml. What is committed is never done again. The results
lie in the store before MLflow hears of them: a tracker that is down costs nothing but the message.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import Flow, flow, get_run_logger
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from flows import jobs_tracking, training_progress
from flows.engines import without_heartbeat
from flows.jobs_files import find_files
from flows.jobs_models import JobModel, corpus_of, find_model
from flows.jobs_recipe import (
    COMPRESSION,
    FINETUNING,
    SUITES,
    JobRecipe,
    Kind,
    config_of,
    load_job_recipe,
    reads_corpus,
)
from flows.jobs_report import refresh_report
from flows.jobs_stage import RESULTS, STAGES, Job
from flows.naming import by_recipe
from flows.runner import artifact_key, run_stage
from pipeline.catalog import refresh_scores
from pipeline.stage import Stage
from pipeline.store import Committed, StageRef, Store, is_local, read_json, unwritable, write_json
from training.tracking import Location, find_location


@dataclass(frozen=True)
class JobPlan:
    """A job's recipe in a workspace: its stage, its model and its place in the store."""

    kind: Kind
    recipe: JobRecipe
    workspace: str
    store: Store
    stage: Job
    ref: StageRef

    @property
    def stages(self) -> dict[str, Stage[Any]]:
        """The one stage by its name."""
        return {self.kind.name: self.stage}

    @property
    def refs(self) -> dict[str, StageRef]:
        """Its place in the store."""
        return {self.kind.name: self.ref}

    @property
    def model(self) -> JobModel:
        """The model that the job works on."""
        return self.stage.model

    @property
    def done(self) -> Committed:
        """The committed results. Raises NotCommitted before the end."""
        return self.ref.committed()

    @property
    def results(self) -> dict[str, Any]:
        """The content of results.json."""
        return read_json(self.done.files("results")[0].path)

    @property
    def made(self) -> Path | None:
        """The folder of the model that the job made, if it makes one."""
        files = self.done.files("models")
        return Path(files[0].path).parent if files else None

    @property
    def tracking_folder(self) -> Path:
        """Where what MLflow is told is kept until it has it."""
        return Path(self.workspace, "tracking", self.ref.fingerprint)

    @property
    def location(self) -> Location:
        """Where MLflow is."""
        return find_location(self.workspace)

    def write_record(self, **facts: Any) -> None:
        """Write the record of this job: what it is, on which model, and facts.

        Raises StoreError where the workspace cannot be written.
        """
        record = {
            "kind": self.kind.name,
            "name": self.recipe.name,
            "recipe": self.recipe.model_dump(mode="json"),
            "fingerprint": self.ref.fingerprint,
            "model": model_facts(self.model),
            "updated": time.time(),
            **facts,
        }
        path = Path(self.workspace, "jobs", f"{self.recipe.name}-{self.ref.fingerprint}.json")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(str(path), record)
        except OSError as error:
            raise unwritable(self.workspace, error) from error


def make_job_plan(
    kind: Kind,
    recipe: str | Mapping[str, Any],
    workspace: str,
    overrides: Sequence[str] = (),
    model: str | None = None,
    data: str | None = None,
) -> JobPlan:
    """Read a job's recipe, find its model and its files, and say where its results lie.

    `model` takes the place of the recipe's; relative paths of files start from `data`, by default the current folder.
    Raises RecipeError for a wrong recipe, and ValueError for a model or a file that is missing, naming it.
    """
    loaded = load_job_recipe(kind, recipe, overrides)
    if model is not None:
        loaded = loaded.model_copy(update={"model": model})
    if not is_local(workspace):
        raise ValueError(f"{workspace}: a job writes to a local disk; use a local --workspace for it")
    root = str(Path(workspace).resolve())
    found = find_model(loaded.model, root)
    config = config_of(loaded, kind)
    if getattr(loaded, "every_checkpoint", False):
        config = dataclasses.replace(config, checkpoints=(*config.checkpoints, *_siblings(found)))
    files = find_files(config, kind.name, Path(data or ".").resolve())
    corpus = corpus_of(found, root) if reads_corpus(kind, config) else None
    stage = STAGES[kind.name](loaded, config, found, files, corpus)
    store = Store.at(f"{root}/store")
    return JobPlan(kind, loaded, root, store, stage, store.ref(stage.name, stage.fingerprint()))


def _siblings(model: JobModel) -> list[str]:
    """The other checkpoints of the training that wrote the model, the oldest first."""
    if model.run is None or model.sha256 not in model.run.checkpoints:
        raise ValueError(f"every_checkpoint: no training in this workspace wrote {model.folder}; name its checkpoints")
    return [str(folder) for sha256, folder in model.run.checkpoints.items() if sha256 != model.sha256]


def _flow_of(kind: Kind, does: str) -> Flow[..., None]:
    """The flow of a kind of job."""

    def job(
        recipe: str | dict[str, Any],
        workspace: str = "workspace",
        overrides: list[str] | None = None,
        model: str | None = None,
        data: str | None = None,
    ) -> None:
        _run(kind, recipe, workspace, overrides, model, data)

    job.__name__ = job.__qualname__ = kind.command
    job.__doc__ = f"""{does}

    `recipe` is a name, a YAML file or the plain values; `model` is an address in MLflow, a checkpoint folder or a
    folder of transformers; relative paths of files start from `data`.
    """
    return flow(name=kind.command, flow_run_name=by_recipe)(job)


finetune = _flow_of(FINETUNING, "Adapt a model to tasks, log it to MLflow as a model of its own and register it.")
suite = _flow_of(SUITES, "Judge a model by task files; the scores hang on that model in MLflow.")
compress = _flow_of(
    COMPRESSION, "Make a model smaller or faster, log it to MLflow as a model of its own and register it."
)
FLOWS = {FINETUNING.name: finetune, SUITES.name: suite, COMPRESSION.name: compress}


def _run(
    kind: Kind,
    recipe: str | dict[str, Any],
    workspace: str,
    overrides: list[str] | None,
    model: str | None,
    data: str | None,
) -> None:
    """Carry out a job, tell Prefect, the catalog, the report and MLflow.

    Raises TrackingPending where all is done but MLflow could not be told; the same command tells it later.
    """
    logger = get_run_logger()
    plan = make_job_plan(kind, recipe, workspace, overrides or [], model, data)
    runnable: Any = plan  # with all of a Plan that run_stage asks for
    logger.info("%s %s in %s on %s", kind.name, plan.recipe.name, plan.workspace, plan.model.folder)
    if plan.ref.is_committed:
        run_stage(runnable, kind.name)
    else:
        plan.write_record(state="running")
        key = artifact_key(plan.recipe.name, kind.name, "course")
        try:
            with (
                without_heartbeat(),
                jobs_tracking.following(plan),
                training_progress.following(key, stage=kind.name, description=f"How the {kind.name} goes"),
            ):
                run_stage(runnable, kind.name)
        except BaseException as error:
            plan.write_record(state="failed", error=f"{type(error).__name__}: {error}")
            raise
    plan.write_record(state="finished", **made_facts(plan))
    _artifacts(plan)
    report = None
    if kind is SUITES:
        refresh_scores(plan.workspace)
        report = refresh_report(plan.model.run, plan.workspace)
    jobs_tracking.track(plan, report)


def _artifacts(plan: JobPlan) -> None:
    """Publish the results as Prefect's tables and a page."""
    results = plan.results
    for name, table in results["tables"].items():
        rows = [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]
        if rows:
            key = artifact_key(plan.recipe.name, plan.kind.name, _slug(name))
            create_table_artifact(table=rows, key=key, description=f"{plan.recipe.name}: {name}")
    create_markdown_artifact(
        key=artifact_key(plan.recipe.name, plan.kind.name, "summary"), markdown=_markdown(plan, results)
    )


def _slug(name: str) -> str:
    return "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name.lower()).strip("-")


def _markdown(plan: JobPlan, results: Mapping[str, Any]) -> str:
    rows = {"model": f"`{plan.model.name}`, step {plan.model.step}: `{plan.model.folder}`"}
    if plan.made is not None:
        rows["made"] = f"`{plan.made}`"
    rows |= {name: f"{value:.4f}" if isinstance(value, float) else f"{value:,}" for name, value in _numbers(results)}
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    lines = "\n".join(f"- {line}".replace("|", "¦") for line in results["lines"])
    return f"# {plan.recipe.name}\n\n{lines}\n\n| | |\n|---|---|\n{table}\n"


def _numbers(results: Mapping[str, Any]) -> list[tuple[str, float]]:
    return list(results["metrics"].items())[:100]


def model_facts(model: JobModel) -> dict[str, Any]:
    """A model as records and summaries tell of it."""
    return {
        "name": model.name,
        "checkpoint": str(model.folder),
        "step": model.step,
        "sha256": model.sha256,
        "uri": model.uri,
        "recipe": None if model.run is None else model.run.record["recipe"]["name"],
    }


def made_facts(plan: JobPlan) -> dict[str, Any]:
    """The model that a finished job made, as records tell of it."""
    made = plan.made
    if made is None:
        return {}
    return {"made": {"checkpoint": str(made), "sha256": plan.done.manifest["summary"]["model_sha256"]}}


def finished(plan: JobPlan) -> bool:
    """Whether a job is done and MLflow has got all of it, as far as the files here tell."""
    return plan.ref.is_committed and jobs_tracking.tracked(plan)


def summary(plan: JobPlan) -> dict[str, Any]:
    """Return the main facts of a finished job as JSON values."""
    results = plan.results
    return {
        "recipe": plan.recipe.name,
        "kind": plan.kind.name,
        "workspace": plan.workspace,
        "model": model_facts(plan.model),
        "metrics": results["metrics"],
        "tables": results["tables"],
        "lines": results["lines"],
        "results": f"{plan.ref.path}/results/{RESULTS}",
        **made_facts(plan),
        **jobs_tracking.facts(plan),
    }


def closing_lines(plan: JobPlan) -> list[str]:
    """Return what a person wants to read at the end: the results, the model that was made, and where to look."""
    facts = summary(plan)
    lines = [*facts["lines"], f"  on         {plan.model.name}, step {plan.model.step} ({plan.model.folder})"]
    if "made" in facts:
        lines.append(f"  model      {facts['registered']} version {facts['version']} ({facts['made']['checkpoint']})")
    if plan.kind is SUITES:
        lines.append("  scores     headrace scores")
    return [*lines, f"  results    {facts['results']}", f"  MLflow     {jobs_tracking.shown(facts['mlflow'])}"]
