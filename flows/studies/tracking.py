"""What MLflow is told of a study: a run of its own with a child run for each trial; a dead tracker stops nothing."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flows.sending import PublishHandler, deliver
from flows.studies.recipe import StudyRecipe
from flows.studies.records import StudyFiles
from flows.studies.trial import Outcome
from pipeline.report.plots import standalone
from pipeline.report.study import Page
from pipeline.store import write_bytes_atomically
from training.tracking import StudySender, find_location

_CLOSE_SECONDS = 10.0
_STATUS = {"finished": "FINISHED", "diverged": "FAILED", "failed": "FAILED", "pruned": "KILLED"}


class StudyTracking:
    """Tells MLflow of one study, from a thread of its own; what it lacks is kept and sent by the same command later."""

    def __init__(self, files: StudyFiles, recipe: StudyRecipe) -> None:
        self._files, self._recipe = files, recipe
        self._folder = Path(files.workspace, "tracking", f"study-{files.fingerprint}")
        self._location = find_location(files.workspace)
        self._sender: StudySender | None = None
        self._handler = PublishHandler()

    def open(self) -> None:
        """Open the study's run, without waiting for it; a second call does nothing."""
        if self._sender is not None:
            return
        logging.getLogger("training.tracking").addHandler(self._handler)
        self._sender = StudySender(self._folder, self._location)
        self._sender.start()
        self._sender.start_run(
            self._recipe.experiment,
            self._recipe.name,
            {self._files.kind: self._recipe.model_dump(mode="json")},
            fingerprint=self._files.fingerprint,
            tags={
                "headrace.kind": self._files.kind,
                "headrace.study": self._recipe.name,
                **({"mlflow.note.content": self._recipe.description} if self._recipe.description else {}),
            },
            wait_seconds=0.0,
        )

    def log(self, outcome: Outcome) -> None:
        """Tell of a trial that has ended, in its child run; the sender's thread does it, and nobody waits."""
        self.open()
        assert self._sender is not None
        curve = [
            (point.step, {"validation/loss": point.loss, "tokens": point.tokens, "flops": point.flops})
            for point in outcome.curve
        ]
        self._sender.log_trial(
            outcome.trial.name,
            f"{self._files.fingerprint}:{outcome.trial.name}",
            status=_STATUS[outcome.state],
            parameters=dict(outcome.trial.parameters),
            metrics=_metrics(outcome),
            curve=[(step, {name: value for name, value in row.items() if math.isfinite(value)}) for step, row in curve],
            tags={
                "headrace.kind": "trial",
                "headrace.state": outcome.state,
                "headrace.stage.train": outcome.fingerprint,
                **({"headrace.error": outcome.error[:1000]} if outcome.error else {}),
            },
            started=time.time() - outcome.seconds - outcome.overhead,
        )

    def finish(self, results: Mapping[str, Any], page: Page, outcomes: Sequence[Outcome]) -> None:
        """Tell of the results and wait until all is sent. Raises TrackingPending where MLflow cannot be reached."""
        self.open()
        assert self._sender is not None
        sender = self._sender
        numbers = {name: float(value) for name, value in (results.get("metrics") or {}).items() if _is_number(value)}
        if numbers:
            sender.log_metrics(numbers, 0)
        for name, table in (results.get("tables") or {}).items():
            sender.log_table(name, table["columns"], table["rows"])
        for name, svg in page.plots.items():
            path = self._folder / f"{name}.svg"
            write_bytes_atomically(str(path), standalone(svg).encode())
            sender.log_artifact(path, "plots")
        sender.log_artifact(self._files.page)
        sender.log_artifact(self._files.results)
        sender.finish()
        try:
            deliver(sender, f"the study is finished: {self._files.folder}")
        finally:
            self.close()

    def close(self, status: str | None = None) -> None:
        """End the sender's thread, after a last try to send what is left; `status` is how the study's run ended."""
        if self._sender is None:
            return
        if status is not None:
            self._sender.finish(status)
        self._sender.close(_CLOSE_SECONDS)
        self._sender = None
        logging.getLogger("training.tracking").removeHandler(self._handler)


def _metrics(outcome: Outcome) -> dict[str, float]:
    """The numbers of a trial's end."""
    numbers = {
        "loss": outcome.loss,
        "parameters": outcome.parameters,
        "matrix_parameters": outcome.matrix_parameters,
        "tokens": outcome.tokens,
        "flops": outcome.flops,
        "seconds": outcome.seconds,
        "overhead": outcome.overhead,
        **{f"cost/{name}": value for name, value in outcome.cost.items()},
    }
    return {name: float(value) for name, value in numbers.items() if math.isfinite(value)}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
