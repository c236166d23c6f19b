"""A job as a stage of the store: one process on one model, whose results are committed or absent."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from flows import contamination
from flows.jobs_files import JobFiles
from flows.jobs_models import JobModel, WorkspaceRun
from flows.jobs_recipe import COMPRESSION, FINETUNING, SUITES, JobRecipe, Kind
from flows.process import ProcessFailed, run_process, training_command
from flows.progress import publish
from flows.training_stages import token_shards
from pipeline.catalog.scores import SCORES_SCHEMA, score_rows
from pipeline.execution import available_cores
from pipeline.stage import Stage, StageError, Unit, UnitOutput, UnitRecord
from pipeline.store import StageRef, is_local, read_json
from training.weights import known_by

RESULTS, JOURNAL = "results.json", "metrics.jsonl"


class JobRefused(StageError, ValueError):
    """The job's process says that what it was given is wrong."""


class Job(Stage[JobRecipe]):
    """Carries out one job in a process of its own; started again it goes on, or anew, to the same end."""

    kind: Kind
    in_process = True

    def __init__(
        self,
        recipe: JobRecipe,
        job_config: Any,
        model: JobModel,
        files: JobFiles,
        corpus: WorkspaceRun | None,
    ) -> None:
        """`corpus` is the run whose token shards the job reads, if it reads any."""
        refs = {name: corpus.refs[name] for name in ("tokenize", "marks") if name in corpus.refs} if corpus else {}
        super().__init__(recipe, {name: ref for name, ref in refs.items() if ref.is_committed})
        self.job_config, self.model, self.files = job_config, model, files
        self.marks = _marks(job_config, files, model.run) if self.kind is SUITES else {}

    def identity(self) -> Any:
        """What decides the result: the configuration without paths, the files' digests, the model."""
        marks = {"contamination": self.marks} if self.marks else {}
        return {**self.files.identity(self.job_config), "model": self.model.digest, **marks}

    def units(self) -> list[Unit]:
        """One unit."""
        return [Unit(0, f"{self.config.name} on {self.model.name}", {})]

    def process(self, unit: Unit, output: UnitOutput) -> None:
        """Start the job's process, follow it to its end and take over what it wrote."""
        if not is_local(output.ref.path):
            raise StageError(f"the stage {self.name} writes to a local disk; use a local --workspace for it")
        work = work_folder(output.ref)
        work.mkdir(parents=True, exist_ok=True)
        config_path = work / "config.json"
        config_path.write_text(json.dumps(self.run_config(work), ensure_ascii=False, indent=1), encoding="utf-8")
        publish({"stage": self.name, "work": str(work)})
        self._run(training_command(f"training.{self.name}", [str(config_path), "--watch-stdin"]))
        results = read_json(str(work / RESULTS))
        if self.kind.makes_model:
            for path in _files(work / "model"):
                output.adopt("models", path, f"model/{path.name}")
        for path in _files(work / "artifacts"):
            output.adopt("artifacts", path, str(path.relative_to(work / "artifacts")))
        if (work / JOURNAL).exists():
            output.adopt("metrics", work / JOURNAL, JOURNAL)
        if self.kind is SUITES:
            output.write("scores", pa.Table.from_pylist(score_rows(results), schema=SCORES_SCHEMA))
        output.adopt("results", work / RESULTS, RESULTS, metrics=results["metrics"], lines=list(results["lines"]))

    def run_config(self, work: Path) -> dict[str, Any]:
        """The configuration of the job's process."""
        tokens = self.inputs.get("tokenize")
        shards = token_shards(tokens.committed(), self.inputs.get("marks")) if tokens is not None else []
        values = self.files.values(self.job_config)
        execution = self.config.execution
        if "cache" in values:
            # Answers of a model serve other suites with the same tasks, too.
            values["cache"] = values["cache"] or str(Path(output_workspace(work), "cache", "suites.sqlite"))
        return {
            **values,
            "checkpoint": str(self.model.folder),
            "output": str(work),
            "data": [dataclasses.asdict(shard) for shard in shards],
            "threads": execution.threads or values.get("threads") or available_cores(),
            "device": values.get("device", "auto") if execution.device == "auto" else execution.device,
            **({"contamination": self.marks} if self.marks else {}),
        }

    def _run(self, command: list[str]) -> None:
        errors: list[str] = []

        def tell(event: dict[str, Any]) -> None:
            if event.get("event") == "error":
                errors.append(str(event.get("message")))
            publish({**event, "stage": self.name})
            if event.get("event") == "warning":
                publish({"stage": self.name, "line": f"warning: {event.get('message')}"})

        try:
            run_process(command, tell, lambda line: publish({"stage": self.name, "line": line}))
        except ProcessFailed:
            if errors:
                raise JobRefused(errors[-1]) from None
            raise

    def summary(self, records: Sequence[UnitRecord]) -> dict[str, Any]:
        """The main numbers, the lines that a person wants to read, and the weights that were made."""
        files = records[0].files
        (results,) = [entry for entry in files if entry["kind"] == "results"]
        made = {Path(entry["path"]).name: entry["sha256"] for entry in files if entry["kind"] == "models"}
        return {**results["attributes"], "model_sha256": known_by(made) if made else None}


class Finetune(Job):
    """Adapts a model to tasks."""

    kind, name, version = FINETUNING, FINETUNING.name, FINETUNING.version


class Judge(Job):
    """Judges a model by task files."""

    kind, name, version = SUITES, SUITES.name, SUITES.version


class Compress(Job):
    """Makes a model smaller or faster."""

    kind, name, version = COMPRESSION, COMPRESSION.name, COMPRESSION.version


STAGES: dict[str, type[Job]] = {stage.kind.name: stage for stage in (Finetune, Judge, Compress)}


def work_folder(ref: StageRef) -> Path:
    """Where the job's process writes."""
    return Path(ref.path, "work")


def output_workspace(work: Path) -> Path:
    """The workspace whose store holds a job's work folder."""
    return work.parents[3]


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _marks(config: Any, files: JobFiles, run: WorkspaceRun | None) -> dict[str, dict[str, Any]]:
    """What the run that made the model knows of the contamination of its corpus with each task, by its name."""
    if run is None:
        return {}
    from training.suites.library import resolve

    ref = run.refs.get("decontaminate")
    summary = ref.committed().manifest["summary"] if ref is not None and ref.is_committed else {}
    found = {}
    for task in resolve(config.tasks).tasks:
        paths = files.found.get(str(Path(config.root) / task.file.partition("#")[0]), ())
        marks = [contamination.mark_of_file(path, summary) for path in paths]
        if marks:
            cleaned = all(mark.cleaned for mark in marks)
            note = next((mark.note for mark in marks if not mark.cleaned), marks[0].note)
            found[task.name] = {"cleaned": cleaned, "note": note}
    return found
