"""From a model's name in MLflow to a checkpoint folder on this machine."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from training.tracking.location import prepare_mlflow
from training.tracking.packaging import checkpoint_folder

_MODEL_ID = re.compile(r"\bm-[0-9a-f]{32}\b")


def resolve_model(uri: str, tracking_uri: str | None = None, destination: str | Path | None = None) -> Path:
    """The checkpoint folder behind `models:/<name>@<alias>`, `models:/<name>/<version>` or `models:/<model id>`.

    A model in a local artifact folder stays where it is; one on a server is downloaded, to `destination` if given.
    Raises ValueError where there is no such model, naming what there is.
    """
    if not uri.startswith("models:/"):
        raise ValueError(
            f"{uri!r} is no model: expected models:/<name>@<alias>, models:/<name>/<version> or models:/<id>"
        )
    prepare_mlflow()
    from mlflow import MlflowClient
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    tracking_uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
    target = None if destination is None else str(destination)
    try:
        # Not left to download_artifacts, which looks for aliases in the process's global tracking URI.
        location = _artifact_location(client, uri.removeprefix("models:/"))
        folder = download_artifacts(artifact_uri=location, dst_path=target, tracking_uri=tracking_uri)
    except (MlflowException, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{uri}: not found in {client.tracking_uri}: {reason}{_known(uri, client)}") from None
    return checkpoint_folder(folder)


def registered_version(uri: str, tracking_uri: str | None = None) -> dict[str, Any]:
    """What MLflow has registered as `models:/<name>@<alias>` or `models:/<name>/<version>`.

    Returns name, version, run_id and model_id; of `models:/<model id>` the last alone. Raises ValueError where there is
    none.
    """
    prepare_mlflow()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    tracking_uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
    name = uri.removeprefix("models:/")
    try:
        if "@" in name:
            name, alias = name.rsplit("@", 1)
            found = client.get_model_version_by_alias(name, alias)
        elif "/" in name:
            name, version = name.rsplit("/", 1)
            found = client.get_model_version(name, version)
        else:
            return {"model_id": name}
    except MlflowException as error:
        raise ValueError(f"{uri}: {str(error).splitlines()[0]}") from None
    # MLflow's own store forgets the id; what a version was made from names it.
    named = _MODEL_ID.search(found.source or "")
    model_id = found.model_id or (named[0] if named else None)
    return {"name": name, "version": str(found.version), "run_id": found.run_id, "model_id": model_id}


def _artifact_location(client: Any, name: str) -> str:
    if "@" in name:
        name, alias = name.rsplit("@", 1)
        version = client.get_model_version_by_alias(name, alias).version
    elif "/" in name:
        name, version = name.rsplit("/", 1)
    else:
        return str(client.get_logged_model(name).artifact_location)
    return str(client.get_model_version_download_uri(name, str(version)))


def _known(uri: str, client: Any) -> str:
    """What a user may have meant: the aliases of the model, or the models."""
    from mlflow.exceptions import MlflowException

    name = uri.removeprefix("models:/").partition("@")[0].partition("/")[0]
    try:
        models = {model.name: sorted(model.aliases) for model in client.search_registered_models(max_results=100)}
    except MlflowException:
        return ""
    if name in models:
        return f"; {name} has the aliases: {', '.join(models[name]) or 'none'}"
    return f"; the registered models are: {', '.join(sorted(models)) or 'none'}"
