"""The files of a study: workspace/studies/<name>-<fingerprint>/, written as it goes.

    record.json           what the study is, and how it stands
    trials/<trial>.json   what came of each trial, written when it ends
    trials.parquet        the same as rows, for the catalog's view `trials`
    results.json          what the trials say together
    page.html             the same for people

All are written whole or not at all. A record that cannot be read counts as none: it is made again from the store.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flows.studies.recipe import StudyRecipe
from flows.studies.trial import Outcome, Trial
from pipeline.catalog import refresh_trials
from pipeline.catalog.trials import STUDIES, TRIALS, write_trials
from pipeline.report.study import Page
from pipeline.store import read_json, unwritable, write_bytes_atomically, write_json

RECORD, RESULTS, PAGE = "record.json", "results.json", "page.html"


class StudyFiles:
    """The folder of one study."""

    def __init__(self, workspace: str, kind: str, recipe: StudyRecipe, fingerprint: str) -> None:
        """Raises StoreError where the folder cannot be written."""
        self.workspace, self.kind, self.recipe, self.fingerprint = workspace, kind, recipe, fingerprint
        self.folder = Path(workspace, STUDIES, f"{recipe.name}-{fingerprint}")
        try:
            (self.folder / "trials").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(str(self.folder), error) from error

    @property
    def page(self) -> Path:
        """The page for people."""
        return self.folder / PAGE

    @property
    def results(self) -> Path:
        """What the trials say together."""
        return self.folder / RESULTS

    def write_record(self, **facts: Any) -> None:
        """Write what the study is and how it stands. Raises StoreError where the workspace cannot be written."""
        self._write(
            RECORD,
            {
                "kind": self.kind,
                "name": self.recipe.name,
                "fingerprint": self.fingerprint,
                "recipe": self.recipe.model_dump(mode="json"),
                "updated": time.time(),
                **facts,
            },
        )

    def write_outcome(self, outcome: Outcome) -> None:
        """Write a trial's record, and the rows of all trials on record. Raises StoreError as `write_record`."""
        self._write(f"trials/{outcome.trial.name}.json", outcome.as_json())
        self.write_rows()

    def write_rows(self) -> None:
        """Write the rows of all trials on record, whichever process put them there. Raises as `write_record`."""
        records = (_outcome(path) for path in sorted((self.folder / "trials").glob("*.json")))
        rows = [{"study": self.recipe.name, "kind": self.kind, **one.as_json()} for one in records if one is not None]
        try:
            write_trials(self.folder / TRIALS, rows)
        except OSError as error:
            raise unwritable(str(self.folder), error) from error

    def read_outcome(self, trial: Trial, fingerprint: str) -> Outcome | None:
        """The record of a trial whose training has this fingerprint; None where there is none that can be read."""
        outcome = _outcome(self.folder / "trials" / f"{trial.name}.json")
        if outcome is None or outcome.fingerprint != fingerprint or outcome.trial != trial:
            return None
        return outcome

    def write_results(self, results: Mapping[str, Any], page: Page, outcomes: Sequence[Outcome]) -> None:
        """Write results.json, the page, and the rows once more, since workers of one study may write them at once.

        Raises StoreError as `write_record`, ValueError for what is no JSON.
        """
        document = {
            "kind": self.kind,
            "name": self.recipe.name,
            "fingerprint": self.fingerprint,
            "title": page.title,
            "lines": list(page.lines),
            **results,
            "trials": [outcome.as_json() for outcome in outcomes],
        }
        try:
            text = json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"the results of {self.recipe.name} are no JSON: {error}") from error
        self._write_bytes(RESULTS, text.encode())
        self._write_bytes(PAGE, page.html().encode())
        self.write_rows()

    def _write(self, name: str, values: Mapping[str, Any]) -> None:
        try:
            write_json(str(self.folder / name), dict(values))
        except OSError as error:
            raise unwritable(str(self.folder), error) from error

    def _write_bytes(self, name: str, content: bytes) -> None:
        try:
            write_bytes_atomically(str(self.folder / name), content)
        except OSError as error:
            raise unwritable(str(self.folder), error) from error


def _outcome(path: Path) -> Outcome | None:
    """What a trial's record says; None where it cannot be read."""
    try:
        return Outcome.from_json(read_json(str(path)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def read_studies(workspace: str | Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The records of a workspace's studies, of one kind or all, the newest last, each with its `folder`.

    A record that cannot be read is left out.
    """
    found = []
    for path in Path(workspace, STUDIES).glob(f"*/{RECORD}"):
        try:
            record = read_json(str(path))
            record = {**record, "folder": str(path.parent), "updated": float(record["updated"])}
            if kind is None or record["kind"] == kind:
                found.append(record)
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return sorted(found, key=lambda record: record["updated"])


def write_catalog(workspace: str) -> None:
    """Let the catalog show the trials of all studies. Raises StoreError where it cannot be written."""
    try:
        refresh_trials(workspace)
    except OSError as error:
        raise unwritable(workspace, error) from error
