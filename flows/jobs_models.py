"""The model that a job works on: where it lies, what it is known by, and which run of the workspace made it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.jobs_files import digest
from flows.models import IMPORTED
from flows.plan import read_records
from flows.tracking import find_checkpoint
from pipeline.store import Committed, StageRef, Store, canonical_json, read_json
from training.tracking import find_location, registered_version
from training.weights import weights_sha256

WEIGHTS = "model.safetensors"
_FILES = (WEIGHTS, "head.safetensors", "adapter.safetensors", "tokenizer.json")
_ELSEWHERE = ("parent", "imported")
"""What a config.json says of where a model is from: no part of what it is."""


@dataclass(frozen=True)
class WorkspaceRun:
    """A run of the workspace whose training is committed."""

    record: dict[str, Any]
    refs: dict[str, StageRef]

    @property
    def train(self) -> Committed:
        """The training."""
        return self.refs["train"].committed()

    @property
    def checkpoints(self) -> dict[str, Path]:
        """The folders of the checkpoints by the sha256 of their weights, the oldest first."""
        files = sorted(self.train.files("checkpoints"), key=lambda file: file.attributes["step"])
        return {file.sha256: Path(file.path).parent for file in files if file.path.endswith(f"/{WEIGHTS}")}


@dataclass(frozen=True)
class JobModel:
    """A finished model, a checkpoint folder."""

    folder: Path
    name: str
    """What tables call it."""
    sha256: str
    """Of its weights, by which it is known again."""
    digest: str
    """Of all that decides what it does: weights, heads, tokenizer and description."""
    description: dict[str, Any]
    uri: str | None
    """How the user named it, where that is an address in MLflow."""
    version: dict[str, Any]
    """What MLflow has registered under that address: name, version, run_id, model_id; empty where there is none."""
    run: WorkspaceRun | None
    """The run that trained it, or the model that it was made from."""

    @property
    def step(self) -> int:
        """The training step that it was written at."""
        return int(self.description.get("step") or 0)


def find_model(model: str | None, workspace: str) -> JobModel:
    """Find the model that a recipe or a user names: an address in MLflow, a checkpoint folder, a folder of
    transformers (imported under `workspace`/imported, once), or the workspace's best.

    Raises ValueError saying what is missing.
    """
    folder = checkpoint_of(model, workspace)
    description = read_json(str(folder / "config.json"))
    uri = model if model is not None and model.startswith("models:/") else None
    version = registered_version(uri, find_location(workspace).tracking_uri) if uri else {}
    sha256 = weights_sha256(folder, digest)
    run = find_run(workspace, sha256) or find_run(workspace, (description.get("parent") or {}).get("sha256"))
    name = _name(folder, sha256, description, version, run, workspace)
    return JobModel(folder, name, sha256, model_digest(folder, description), description, uri, version, run)


def checkpoint_of(model: str | None, workspace: str) -> Path:
    """The checkpoint folder of what a user names (see `find_model`); raises ValueError saying what is missing."""
    if model is not None and _is_foreign(Path(model)):
        return _imported(Path(model), Path(workspace))
    return find_checkpoint(model, workspace)


def model_digest(folder: Path, description: dict[str, Any]) -> str:
    """The identity of a model, wherever it lies."""
    files = {name: digest(folder / name) for name in _FILES if (folder / name).is_file()}
    facts = {name: value for name, value in description.items() if name not in _ELSEWHERE}
    return hashlib.sha256(canonical_json([files, facts]).encode()).hexdigest()


def runs(workspace: str) -> Iterator[WorkspaceRun]:
    """The runs of a workspace whose training is committed, the newest first."""
    store = Store.at(f"{workspace}/store")
    for record in reversed(read_records(workspace)):
        refs = {name: store.ref(name, fingerprint) for name, fingerprint in record["stages"].items()}
        if refs["train"].is_committed:
            yield WorkspaceRun(record, refs)


def find_run(workspace: str, sha256: str | None) -> WorkspaceRun | None:
    """The newest run that wrote a checkpoint with these weights."""
    return next((run for run in runs(workspace) if sha256 in run.checkpoints), None) if sha256 else None


def corpus_of(model: JobModel, workspace: str) -> WorkspaceRun | None:
    """The run whose token shards the model was trained on, else the newest one with the model's tokenizer."""
    if model.run is not None:
        return model.run
    wanted = model.description.get("tokenizer_sha256")
    return next((run for run in runs(workspace) if wanted and wanted == _tokenizer(run)), None)


def _tokenizer(run: WorkspaceRun) -> str:
    sha256: str = run.refs["tokenize"].committed().manifest["summary"]["tokenizer"]["sha256"]
    return sha256


def _is_foreign(folder: Path) -> bool:
    """Whether this is a folder of a model of transformers."""
    path = folder / "config.json"
    return path.is_file() and "format" not in read_json(str(path)) and "model_type" in read_json(str(path))


def _imported(folder: Path, workspace: Path) -> Path:
    """The checkpoint of a model of transformers; one whose files were imported before is there."""
    from training.models.huggingface import import_model

    files = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".json"))
    content = [[path.name, digest(path)] for path in files]
    known = hashlib.sha256(canonical_json(content).encode()).hexdigest()
    target = workspace.resolve() / IMPORTED / f"{folder.resolve().name}-{known[:12]}"
    made = target / "step-00000000"
    return made if (made / WEIGHTS).is_file() else import_model(folder, target)


def _name(
    folder: Path,
    sha256: str,
    description: dict[str, Any],
    version: dict[str, Any],
    run: WorkspaceRun | None,
    workspace: str,
) -> str:
    if run is not None and sha256 in run.checkpoints:
        return str(run.record["recipe"]["name"])
    if "name" in version:
        return str(version["name"])
    made = [record for record in job_records(workspace) if record.get("made", {}).get("sha256") == sha256]
    if made:
        return str(made[-1]["name"])
    if "imported" in description:
        return str(description["imported"]["folder"])
    named = (part for part in (folder.resolve(), *folder.resolve().parents) if not _is_generic(part.name))
    return next(named, folder.resolve()).name


def _is_generic(name: str) -> bool:
    """Whether a folder's name tells nothing of the model in it."""
    return name in ("checkpoints", "checkpoint", "model", "models", "work", "artifacts") or name.startswith("step-")


def job_records(workspace: str) -> list[dict[str, Any]]:
    """The records of the jobs of a workspace, the newest last."""
    records = [read_json(str(path)) for path in Path(workspace, "jobs").glob("*.json")]
    return sorted(records, key=lambda record: float(record["updated"]))
