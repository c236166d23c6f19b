"""Where MLflow keeps runs: the environment's server, or an SQLite file and a folder inside the workspace."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# Read by MLflow when it is imported or when it sends. Ours are defaults: what the user has set stays.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # The sender tries again by itself; MLflow's own 7 retries would hold its thread for minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
}
# They print a traceback or a warning at every attempt to reach a tracker that is down; the sender says it once.
_NOISY = {
    "mlflow.store.db.utils": logging.CRITICAL,
    "urllib3.connectionpool": logging.ERROR,
    "alembic": logging.WARNING,
}


@dataclass(frozen=True)
class Location:
    """A tracking server, or a database file with the folder of its artifacts."""

    tracking_uri: str
    artifact_root: Path | None = None
    """Folder for the artifacts of new experiments; None leaves them to the server."""


def find_location(workspace: str | Path, environment: Mapping[str, str] | None = None) -> Location:
    """The location that MLFLOW_TRACKING_URI names, else `<workspace>/mlflow.db` with artifacts in `<workspace>/mlruns`.

    Paths are absolute, so that it means the same from every folder.
    """
    root = Path(workspace).resolve()
    given = (os.environ if environment is None else environment).get("MLFLOW_TRACKING_URI", "")
    uri = given or f"sqlite:///{root / 'mlflow.db'}"
    return Location(uri, root / "mlruns" if is_database(uri) else None)


def is_database(tracking_uri: str) -> bool:
    """Whether a tracking URI names a database that is opened directly, not a server."""
    return tracking_uri.partition(":")[0].partition("+")[0] in ("sqlite", "mysql", "postgresql", "mssql")


def prepare_mlflow() -> None:
    """Set the defaults that MLflow reads from the environment; call it before MLflow is imported."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for name, level in _NOISY.items():
        logging.getLogger(name).setLevel(level)
