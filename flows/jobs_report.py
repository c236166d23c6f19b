"""The report of the run that trained a model, written anew when the model has been judged."""

from __future__ import annotations

from pathlib import Path

from flows.jobs_models import WorkspaceRun
from pipeline.dedup.index import KNOWN
from pipeline.dedup.stages import Duplicates
from pipeline.store import StageRef, Store, write_bytes_atomically


def refresh_report(run: WorkspaceRun | None, workspace: str) -> Path | None:
    """Write the report of a finished run again, with what its checkpoints were judged by until now; return its path.

    It is written from the run's record: neither its sources nor its recipe's file need to be there any more.
    """
    if run is None or run.record.get("state") != "finished":
        return None
    from pipeline.catalog.scores import judged
    from pipeline.report import render

    recipe = run.record["recipe"]
    path = Path(workspace, "reports", f"{recipe['name']}-{run.record['identity']}.html")
    path.parent.mkdir(parents=True, exist_ok=True)
    suites = [one.committed for one in judged(workspace)]
    page = render(workspace, recipe, run.refs, recipe["name"], _known(run, workspace), suites)
    write_bytes_atomically(str(path), page.encode())
    return path


def _known(run: WorkspaceRun, workspace: str) -> StageRef | None:
    """The decisions of the earlier run that the run's documents were compared with."""
    duplicates = run.refs.get(Duplicates.name)
    against = (run.record["recipe"].get("deduplicate") or {}).get("against")
    if duplicates is None or not duplicates.is_committed or against is None:
        return None
    fingerprint = duplicates.committed().manifest["inputs"][KNOWN]
    return Store.at(f"{against['workspace'] or workspace}/store").ref(Duplicates.name, fingerprint)
