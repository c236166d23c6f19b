"""What a job on a finished model tells MLflow: the model that it used, the one that it made, and its tables."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from training.tracking.sender import Sender
from training.tracking.state import load_state


class JobSender(Sender):
    """Sends one job: a run of its own, whose numbers hang on the models that they belong to, of whatever run."""

    def is_sent(self, key: str) -> bool:
        """Whether a request was carried out, as far as the files here tell."""
        return key in load_state(self._state_path).done

    def log_used_model(
        self, key: str, folder: str | Path, *, sha256: str, name: str, step: int = 0, model_id: str | None = None
    ) -> None:
        """Link a model that the job used, known to MLflow by `model_id` or by the sha256 of its weights, to the run.

        One that MLflow does not know is noted as a LoggedModel that says where it lies. `key` names the model in
        `log_used_model_metrics` and `log_made_model`. Its result is {"model_id", "run_id", "versions"}.
        """
        arguments = {
            "folder": str(Path(folder).resolve()),
            "name": name,
            "step": step,
            "sha256": sha256,
            "model_id": model_id,
        }
        self._ask(f"model {key}", "log_used_model", arguments, identity=[sha256])

    def log_used_model_metrics(self, key: str, metrics: Mapping[str, float], step: int) -> None:
        """Send numbers that hang on a model of `log_used_model`."""
        arguments = {"metrics": dict(metrics), "step": step, "checkpoint_step": None, "model": key}
        stamped = {**arguments, "time": time.time_ns() // 1_000_000}
        self._ask(f"metrics of {key}", "log_metrics", stamped, identity=arguments)

    def log_made_model(
        self,
        folder: str | Path,
        step: int,
        metrics: Mapping[str, float],
        *,
        name: str,
        parent: str,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Store the model that the job made as a LoggedModel with its metrics, tagged with its parent.

        `parent` is the key of a model of `log_used_model`; the tags headrace.parent.model_id, .run and .version tell
        what MLflow knows of it. They stand at the registered version, too (`register_best` with the same step).
        """
        arguments = {
            "folder": str(Path(folder).resolve()),
            "step": step,
            "metrics": dict(metrics),
            "by_reference": None,
            "name": name,
            "tags": dict(tags or {}),
            "parent": parent,
        }
        self._ask(f"checkpoint {step}", "log_checkpoint", arguments, identity=[step, dict(metrics), name])

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Store a table as `name`.json, in the form that MLflow shows as one."""
        arguments = {"name": name, "columns": list(columns), "rows": [list(row) for row in rows]}
        self._ask(f"table {name}", "log_table", arguments)
