"""Which scores of an evaluation may be trusted: was the corpus cleaned of the set that they are on?"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from flows.plan import Plan
from pipeline.store import file_sha256

TAG = "headrace.contamination."
METRIC = "evaluation/cleaned/"
_TEMPLATES = "templates:"


@dataclass(frozen=True)
class Mark:
    """What the run knows about the contamination of its corpus with one evaluation set."""

    cleaned: bool
    note: str


def marks(plan: Plan) -> dict[str, Mark]:
    """A mark for each set that the recipe evaluates on, by the name that its scores have.

    A set counts as cleaned of where the decontaminate stage looked for the same file (by its digest) and removed what
    it found. Own templates are one set; no file holds them.
    """
    summary = plan.refs["decontaminate"].committed().manifest["summary"] if "decontaminate" in plan.refs else {}
    found = {}
    evaluate = plan.recipe.evaluate
    for name in (*evaluate.minimal_pairs, *evaluate.similarity, *evaluate.probes, *evaluate.choices):
        if name.startswith(_TEMPLATES):
            found["templates"] = Mark(False, "the corpus was not cleaned of these sentences, which Headrace generates")
        else:
            found[Path(name).name.partition(".")[0]] = mark_of_file(Path(name), summary)
    return found


def mark_of_file(path: Path, summary: dict[str, Any]) -> Mark:
    """The mark of a file of an evaluation set, by the summary of the decontaminate stage; empty where there is none."""
    digest = _digest(path, path.stat().st_mtime_ns)
    entries = [entry for entry in summary.get("benchmarks", {}).values() if entry["digest"] == digest]
    if not entries:
        return Mark(False, "the corpus was NOT cleaned of this set")
    items, checked, hits = (sum(entry[key] for entry in entries) for key in ("items", "checked", "found"))
    told = f"{hits:,} of {checked:,} items that can be looked for were found (rule {summary['rule']})"
    if summary["action"] == "annotate" and hits:
        return Mark(False, f"{told} and LEFT in the corpus")
    short = f"; {items - checked:,} are too short to look for" if items > checked else ""
    return Mark(True, f"{told} and removed{short}")


@lru_cache(maxsize=64)
def _digest(path: Path, modified: int) -> str:
    return file_sha256(path)


def tags(plan: Plan) -> dict[str, str]:
    """The marks as tags of an MLflow run."""
    return {
        TAG + name: ("cleaned: " if mark.cleaned else "WARNING: ") + mark.note for name, mark in marks(plan).items()
    }


def metrics(plan: Plan) -> dict[str, float]:
    """The marks as numbers that stand beside the scores: 1 where the corpus was cleaned of a set, else 0."""
    return {METRIC + name: float(mark.cleaned) for name, mark in marks(plan).items()}
