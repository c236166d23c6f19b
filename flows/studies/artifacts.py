"""What Prefect shows of a study: how far it is, and at the end its page in words, its tables and its trials."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from flows.progress import publish
from flows.runner import artifact_key
from flows.studies.records import StudyFiles
from flows.studies.training import STAGE
from flows.studies.trial import Outcome
from pipeline.report.study import Page

_SECONDS = 2.0


class Progress:
    """Keeps the terminal and a Prefect progress artifact true while trials run."""

    def __init__(self, name: str, kind: str, total: int) -> None:
        self._key = artifact_key(name, kind, "trials")
        self._total, self._done = total, 0
        self._lock = threading.Lock()
        self._artifact: UUID | None = None
        self._shown = 0.0

    def __enter__(self) -> Progress:
        publish({"stage": STAGE, "state": "started", "done": 0, "total": self._total})
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            publish({"stage": STAGE, "state": "committed", "done": self._done, "total": self._total})
            if self._done > 1:
                self._show()

    def add(self, outcome: Outcome) -> None:
        """Tell of a trial that has ended."""
        with self._lock:
            self._done += 1
            publish({"stage": STAGE, "done": self._done, "total": self._total})
            if outcome.finished:
                line = f"{outcome.trial.name}: loss {outcome.loss:.4f}, {outcome.seconds:.1f} s"
                publish({"stage": STAGE, "line": line})
            if self._total > 1 and time.monotonic() - self._shown > _SECONDS:
                self._show()

    def _show(self) -> None:
        """A study that asks for one trial after another has no total to tell of."""
        progress = 100.0 * self._done / max(self._total, 1)
        if self._artifact is None:
            made: Any = create_progress_artifact(progress, key=self._key, description="Trials of the study")
            self._artifact = made
        else:
            update_progress_artifact(self._artifact, progress=progress)
        self._shown = time.monotonic()


def publish_results(
    name: str,
    kind: str,
    results: Mapping[str, Any],
    page: Page,
    outcomes: Sequence[Outcome],
    files: StudyFiles,
) -> None:
    """Publish what a study came to as Prefect's artifacts: a summary, a link to the page, tables, the trials."""
    for title, table in (results.get("tables") or {}).items():
        rows = [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]
        if rows:
            create_table_artifact(table=rows, key=artifact_key(name, kind, slug(title)), description=f"{name}: {title}")
    trials = [trial_row(outcome) for outcome in outcomes]
    if trials:
        create_table_artifact(table=trials, key=artifact_key(name, kind, "outcomes"), description="Trials of the study")
    lines = "\n".join(f"- {line}".replace("|", "¦") for line in page.lines)
    create_markdown_artifact(
        key=artifact_key(name, kind, "summary"), markdown=f"# {page.title}\n\n{lines}\n\nPage: `{files.page}`\n"
    )
    create_link_artifact(
        key=artifact_key(name, kind, "page"), link=f"file://{files.page}", link_text="The study's page"
    )


def trial_row(outcome: Outcome) -> dict[str, Any]:
    """A trial as a table shows it."""
    values = outcome.as_json()
    names = ("trial", "state", "loss", "parameter_count", "tokens", "flops", "seconds", "overhead", "error")
    return {
        **{name: values[name] for name in names[:2]},
        **values["parameters"],
        **{name: values[name] for name in names[2:]},
    }


def slug(name: str) -> str:
    """A name with what Prefect's keys do not allow replaced."""
    return "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name.lower()).strip("-")
