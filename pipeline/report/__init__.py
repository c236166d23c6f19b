"""The report: one self-contained HTML page that tells what a run did, why, and at what cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.report.collect import collect
from pipeline.report.page import page
from pipeline.store import StageRef


def render(workspace: str, recipe: dict[str, Any], refs: Mapping[str, StageRef], title: str) -> str:
    """Return the report of a run as HTML.

    `refs` are the places of the run's stages by name; a stage may be missing or unfinished, and its part of the page then
    says so. Reads committed files only; the same files give the same page. `workspace` is where the run lies: no path
    below it is shown in full.
    """
    return page(collect(recipe, refs, title)).replace(f"{workspace.rstrip('/')}/", "")
