"""`headrace plan --corpus`: from the words of the command line to a plan, printed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from flows.internet.plan import calibrate as calibrate_here
from flows.internet.plan import measured_run, plan_corpus
from flows.internet.printing import print_corpus_plan
from flows.internet.recipe import load_corpus_recipe

DEFAULT = "common-crawl"


def plan_command(
    recipe: str | None,
    overrides: Sequence[str],
    snapshots: int | None,
    workspace: Path | None,
    calibrate: bool = False,
    sources: bool = False,
    as_json: bool = False,
) -> bool:
    """Plan a corpus and print it; whether it fits.

    The recipe of a training (quickstart, by default) means the common crawl. Raises RecipeError for a recipe that is
    wrong, ValueError where the workspace measured nothing.
    """
    said = [*overrides, *([f"snapshots={snapshots}"] if snapshots is not None else [])]
    loaded = load_corpus_recipe(DEFAULT if recipe in (None, "quickstart") else str(recipe), said)
    folder = str(workspace or Path("workspace"))
    run = calibrate_here(loaded, folder) if calibrate else measured_run(loaded, folder)
    planned = plan_corpus(loaded, run, folder)
    if as_json:
        print(json.dumps(planned.to_dict(), indent=1, ensure_ascii=False))
    else:
        print_corpus_plan(Console(), planned, loaded, sources)
    return not planned.does_not_fit
