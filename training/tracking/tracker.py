"""The MLflow calls that a run needs. Each looks before it writes, so it may be repeated after a crash at any point."""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from training.tracking.journal import Point
from training.tracking.location import Location, is_database, prepare_mlflow
from training.tracking.packaging import build_model_folder

FINGERPRINT = "headrace.fingerprint"
WEIGHTS = "headrace.weights_sha256"
_VERSIONS = "mlflow.modelVersions"
_TABLES = "mlflow.loggedArtifacts"
BATCH_METRICS = 1000  # the most that MLflow takes in one call
_BATCH_PARAMS = 100
_PARAM_LENGTH = 6000
_NAME_LENGTH = 250
_DIGEST_LENGTH = 36
_TAG_LENGTH = 5000
_FORBIDDEN = re.compile(r"[^\w\-. :/]", re.ASCII)

_REFUSED = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "BAD_REQUEST"}


def _make_database(path: Path, artifact_root: Path | None) -> None:
    """Make MLflow's SQLite file where there is none, in one step.

    MLflow makes its tables one by one in place, and cannot mend a file that a killed process left half made.
    """
    if path.exists():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        fresh = Path(folder, path.name)
        root = artifact_root or path.parent / "mlruns"
        SqlAlchemyStore(f"sqlite:///{fresh}", root.as_uri()).engine.dispose()
        with contextlib.suppress(FileExistsError):  # another process was faster
            os.link(fresh, path)


class RunGone(Exception):
    """The tracker no longer has the run that the state names."""


class Tracker:
    """A connection to MLflow. Its methods raise what MLflow raises; `is_final` tells refusals from outages."""

    def __init__(self, location: Location) -> None:
        prepare_mlflow()
        from mlflow import MlflowClient, entities

        if location.tracking_uri.startswith("sqlite:///"):
            _make_database(Path(location.tracking_uri.removeprefix("sqlite:///")), location.artifact_root)
        self.location = location
        self.entities: Any = entities
        self.client = MlflowClient(tracking_uri=location.tracking_uri, registry_uri=location.tracking_uri)

    def open_run(self, experiment: str, name: str, fingerprint: str, tags: Mapping[str, str]) -> Any:
        """Return MLflow's description of the run with this fingerprint, made where there is none, set to RUNNING."""
        experiment_id = self._open_experiment(experiment)
        marks = {**{key: str(value)[:_TAG_LENGTH] for key, value in tags.items()}, FINGERPRINT: fingerprint}
        found = self.client.search_runs(
            [experiment_id], f"tags.`{FINGERPRINT}` = {_quoted(fingerprint)}", max_results=1
        )
        if found:
            run_id = found[0].info.run_id
            self.client.update_run(run_id, status="RUNNING", name=name)
            self.client.log_batch(run_id, tags=[self.entities.RunTag(*item) for item in marks.items()])
            return found[0].info
        return self.client.create_run(experiment_id, tags=marks, run_name=name).info

    def _open_experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is None:
            root = self.location.artifact_root
            folder = None if root is None else (root / _FORBIDDEN.sub("_", name).replace("/", "_")).as_uri()
            try:
                return str(self.client.create_experiment(name, artifact_location=folder))
            except Exception as error:
                if error_code(error) != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = self.client.get_experiment_by_name(name)  # another process was faster
                assert found is not None
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def check_run(self, run_id: str) -> None:
        """Raise RunGone unless the tracker has the run."""
        try:
            run = self.client.get_run(run_id)
        except Exception as error:
            if error_code(error) == "RESOURCE_DOES_NOT_EXIST":
                raise RunGone(run_id) from None
            raise
        if run.info.lifecycle_stage == "deleted":
            raise RunGone(run_id)

    def log_recipe(self, run_id: str, recipe: Mapping[str, Any]) -> None:
        """Store a recipe as parameters (those that the run lacks) and as the artifact recipe.yaml."""
        known = self.client.get_run(run_id).data.params
        params = [self.entities.Param(name, value) for name, value in flatten(recipe).items() if name not in known]
        for start in range(0, len(params), _BATCH_PARAMS):
            self.client.log_batch(run_id, params=params[start : start + _BATCH_PARAMS])
        self.client.log_dict(run_id, dict(recipe), "recipe.yaml")

    def log_dataset(
        self, run_id: str, name: str, digest: str, source: str, facts: Mapping[str, Any], context: str
    ) -> tuple[str, str]:
        """Link a dataset to the run; returns the name and the digest under which MLflow has it."""
        short = digest[:_DIGEST_LENGTH]
        dataset = self.entities.Dataset(
            name=name,
            digest=short,
            source_type="headrace",
            source=json.dumps({"uri": source, "fingerprint": digest}),
            profile=json.dumps(dict(facts)),
        )
        tag = self.entities.InputTag("mlflow.data.context", context)
        self.client.log_inputs(run_id, [self.entities.DatasetInput(dataset, [tag])])
        return name, short

    def log_points(
        self,
        run_id: str,
        points: Sequence[Point],
        model_id: str | None = None,
        dataset: Sequence[str] | None = None,
    ) -> None:
        """Send metrics, at most `BATCH_METRICS`, in one call; those of a model hang on it and on its dataset."""
        name, digest = dataset if dataset and model_id else (None, None)
        metrics = [
            self.entities.Metric(
                metric_name(point.name),
                point.value,
                point.timestamp_milliseconds,
                point.step,
                model_id=model_id,
                dataset_name=name,
                dataset_digest=digest,
                run_id=run_id if model_id else None,
            )
            for point in points
        ]
        self.client.log_batch(run_id, metrics=metrics)

    def points(self, run_id: str, name: str) -> list[Point]:
        """All that the tracker has of one metric of the run."""
        history = self.client.get_metric_history(run_id, metric_name(name))
        return [Point(name, metric.value, metric.step, metric.timestamp) for metric in history]

    def log_checkpoint(
        self,
        run_id: str,
        experiment_id: str,
        checkpoint_dir: Path,
        step: int,
        fingerprint: str,
        params: Mapping[str, Any],
        by_reference: bool,
        tags: Mapping[str, str] | None = None,
        name: str | None = None,
        output: bool = True,
    ) -> str:
        """Store a checkpoint as a LoggedModel of type `checkpoint`, by default an output of the run; returns its id.

        `tags` that begin with `headrace.` are those of its registered version, too; `name` is by default the folder's.
        """
        found = self.client.search_logged_models([experiment_id], _with_fingerprint(fingerprint), max_results=1)
        model = (
            found[0]
            if found
            else self.client.create_logged_model(
                experiment_id,
                name=name or checkpoint_dir.name,
                source_run_id=run_id,
                tags={FINGERPRINT: fingerprint, "headrace.step": str(step), **(tags or {})},
                params=flatten(params),
                model_type="checkpoint",
            )
        )
        model_id: str = model.model_id
        if str(model.status).rpartition(".")[2] != "READY":
            try:
                with tempfile.TemporaryDirectory(prefix="headrace-model-") as folder:
                    build_model_folder(Path(folder), checkpoint_dir, model_id, run_id, by_reference)
                    self.client.log_model_artifacts(model_id, folder)
            except FileNotFoundError:
                self.client.finalize_logged_model(model_id, "FAILED")  # it was deleted while it was copied
                raise
            self.client.finalize_logged_model(model_id, "READY")
        if output:
            outputs = self.client.get_run(run_id).outputs
            if model_id not in {one.model_id for one in (outputs.model_outputs if outputs else [])}:
                self.client.log_outputs(run_id, [self.entities.LoggedModelOutput(model_id, step)])
        return model_id

    def find_model(self, sha256: str, model_id: str | None = None) -> Any | None:
        """Return the LoggedModel of these weights in any experiment, or None; `model_id` is looked at first."""
        if model_id is not None:
            try:
                return self.client.get_logged_model(model_id)
            except Exception as error:
                if error_code(error) != "RESOURCE_DOES_NOT_EXIST":
                    raise
        experiments = [found.experiment_id for found in self.client.search_experiments()]
        models = self.client.search_logged_models(experiments, f"tags.`{WEIGHTS}` = {_quoted(sha256)}")
        ready = [model for model in models if str(model.status).rpartition(".")[2] == "READY"]
        # A model with a version is the one that people know.
        return next((model for model in ready if _VERSIONS in model.tags), ready[0] if ready else None)

    def log_input_model(self, run_id: str, model_id: str) -> None:
        """Note that a run used a LoggedModel."""
        inputs = self.client.get_run(run_id).inputs
        if model_id not in {one.model_id for one in (inputs.model_inputs if inputs else [])}:
            self.client.log_inputs(run_id, models=[self.entities.LoggedModelInput(model_id)])

    def log_table(self, run_id: str, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Store a table as the artifact `name`.json, which MLflow shows and `mlflow.load_table` reads."""
        path = f"{name}.json"
        self.client.log_dict(run_id, {"columns": list(columns), "data": [list(row) for row in rows]}, path)
        known = json.loads(self.client.get_run(run_id).data.tags.get(_TABLES, "[]"))
        entry = {"path": path, "type": "table"}
        if entry not in known:
            self.client.set_tag(run_id, _TABLES, json.dumps([*known, entry]))

    def register(self, run_id: str, name: str, model_id: str, alias: str) -> str:
        """Register a LoggedModel under a name, once, and let the alias point to it; returns the version."""
        try:
            self.client.get_registered_model(name)
        except Exception as error:
            if error_code(error) != "RESOURCE_DOES_NOT_EXIST":
                raise
            self.client.create_registered_model(name)
        model = self.client.get_logged_model(model_id)
        fingerprint = model.tags[FINGERPRINT]
        versions = [version for version in self._versions(name) if version.tags.get(FINGERPRINT) == fingerprint]
        version = versions[0] if versions else self._create_version(run_id, name, model)
        self.client.set_registered_model_alias(name, alias, str(version.version))
        return str(version.version)

    def _create_version(self, run_id: str, name: str, model: Any) -> Any:
        # For models:/<id> a database looks into the process's global tracking URI, which need not be this one.
        source = model.artifact_location if is_database(self.location.tracking_uri) else f"models:/{model.model_id}"
        tags = {key: value for key, value in model.tags.items() if key.startswith("headrace.")}
        version = self.client.create_model_version(name, source, run_id=run_id, tags=tags, model_id=model.model_id)
        # As mlflow.register_model does, so that the page of the model names its versions.
        known = versions_of(model)
        known.append({"name": name, "version": version.version})
        self.client.set_logged_model_tags(model.model_id, {_VERSIONS: json.dumps(known)})
        return version

    def _versions(self, name: str) -> list[Any]:
        versions: list[Any] = []
        token = None
        while True:
            page = self.client.search_model_versions(f"name = {_quoted(name)}", page_token=token)
            versions += page
            token = page.token
            if not token:
                return versions

    def log_file(self, run_id: str, path: Path, folder: str) -> None:
        """Store a file among the artifacts of the run; one of the same name is replaced."""
        self.client.log_artifact(run_id, str(path), folder or None)

    def log_text(self, run_id: str, text: str, path: str) -> None:
        """Store a text as an artifact of the run."""
        self.client.log_text(run_id, text, path)

    def finish(self, run_id: str, status: str) -> None:
        """Set the run's end."""
        self.client.set_terminated(run_id, status)


def versions_of(model: Any) -> list[dict[str, Any]]:
    """The registered versions ({"name", "version"}) of a LoggedModel, the newest last."""
    found: list[dict[str, Any]] = json.loads(model.tags.get(_VERSIONS, "[]"))
    return found


def error_code(error: BaseException) -> str:
    """The code of an MLflow error, or an empty string."""
    return str(getattr(error, "error_code", ""))


def is_final(error: BaseException) -> bool:
    """Whether to try again is useless: the tracker refused the request, or what it needs is not there."""
    return error_code(error) in _REFUSED or isinstance(error, ValueError | TypeError | KeyError | FileNotFoundError)


def metric_name(name: str) -> str:
    """A metric's name with what MLflow does not allow replaced."""
    return _FORBIDDEN.sub("_", name)[:_NAME_LENGTH]


def flatten(document: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as flat parameters, `train.model.width`; lists as JSON, or by index where they hold objects.

    Values longer than MLflow takes are cut and end in an ellipsis.
    """
    flat: dict[str, str] = {}
    for key, value in document.items():
        name = f"{prefix}{key}"
        if isinstance(value, list | tuple) and value and all(isinstance(item, Mapping) for item in value):
            value = {str(index): item for index, item in enumerate(value)}
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{name}.")
            continue
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        flat[metric_name(name)] = text if len(text) <= _PARAM_LENGTH else f"{text[: _PARAM_LENGTH - 1]}…"
    return flat


def _with_fingerprint(fingerprint: str) -> str:
    return f"tags.`{FINGERPRINT}` = {_quoted(fingerprint)}"


def _quoted(text: str) -> str:
    if "'" in text:
        raise ValueError(f"{text!r} holds a quotation mark, which MLflow's filters cannot express")
    return f"'{text}'"


def retry_delays(first: float = 1.0, longest: float = 60.0) -> Callable[[int], float]:
    """Seconds to wait after the n-th failure in a row: doubled each time."""
    return lambda failures: min(longest, first * 2 ** min(failures - 1, 20))
