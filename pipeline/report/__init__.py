"""The report: one self-contained HTML page that tells what a run did, why, and at what cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.report.collect import collect
from pipeline.report.page import page
from pipeline.store import Committed, StageRef


def render(
    workspace: str,
    recipe: dict[str, Any],
    refs: Mapping[str, StageRef],
    title: str,
    known: StageRef | None = None,
    suites: Sequence[Committed] = (),
) -> str:
    """Return the report of a run as HTML.

    `refs` are the places of the run's stages by name; a stage may be missing or unfinished, and its part of the page
    then says so. `known` is the `duplicates` stage of the run that this one was compared with. `suites` are judgings
    of models, of which those of this run's checkpoints are shown. Reads committed files only; the same files give the
    same page. Paths of the recipe that lie in the workspace are shown relative to it.
    """
    return page(collect(_relative(recipe, f"{workspace.rstrip('/')}/"), refs, title, known, suites))


def _relative(value: Any, folder: str) -> Any:
    if isinstance(value, Mapping):
        return {key: _relative(item, folder) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_relative(item, folder) for item in value]
    return value.removeprefix(folder) if isinstance(value, str) else value
