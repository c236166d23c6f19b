"""What a workspace knows of a model, for its model card: its corpus, its results, and what was done to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flows import contamination
from flows.jobs_models import JobModel, WorkspaceRun, find_model, find_run, job_records
from flows.plan import make_plan
from flows.scores import read_scores
from pipeline.report.scores import Score, likelihood_scores, main_scores, task_scores
from pipeline.store import read_json
from training.models.model_card import Evidence

_DECIDING = ("ingest", "deduplicate", "filter", "privacy", "decontaminate", "tokenize")
"""The stages that let documents go."""
_LONGEST_CHAIN = 100


def evidence_of(model: str | None, checkpoint: Path, workspace: Path) -> Evidence:
    """All that `workspace` holds about a checkpoint, which the user named `model`; nothing where it does not know it.

    A model that was made from another one has the corpus of that one, and results of its own.
    """
    root = str(workspace.resolve())
    if not workspace.is_dir():
        return Evidence()
    found = find_model(str(checkpoint), root)
    steps, origin = _history(found, root)
    run = origin or found.run
    results = [*_evaluated(found, root), *_judged(found, workspace)]
    uri = model if model is not None and model.startswith("models:/") else None
    if run is None:
        return Evidence(model=uri, results=results, steps=steps)
    recipe = run.record["recipe"]
    return Evidence(
        recipe=recipe["name"],
        description=recipe.get("description") if found.sha256 in run.checkpoints else None,
        model=uri,
        funnel=list(_funnel(run)),
        corpus=list(_corpus(run)),
        results=results,
        stages={name: ref.fingerprint for name, ref in run.refs.items() if ref.is_committed},
        steps=steps,
    )


def _history(model: JobModel, workspace: str) -> tuple[list[str], WorkspaceRun | None]:
    """What jobs did to get from a trained model to this one, the first first; and the run that trained that one."""
    made = {record["made"]["sha256"]: record for record in job_records(workspace) if "made" in record}
    steps: list[str] = []
    sha256 = model.sha256
    while sha256 in made and len(steps) < _LONGEST_CHAIN:
        record = made[sha256]
        steps.append(f"{record['kind']}: {record['name']} (`{record['fingerprint']}`), of {record['model']['name']}")
        sha256 = record["model"]["sha256"]
    return steps[::-1], find_run(workspace, sha256)


def _funnel(run: WorkspaceRun) -> Iterator[dict[str, Any]]:
    for name in _DECIDING:
        if name in run.refs and run.refs[name].is_committed:
            counts = run.refs[name].committed().counts
            yield {"stage": name, **{key: counts[key] for key in ("read", "kept", "dropped")}}


def _corpus(run: WorkspaceRun) -> Iterator[dict[str, Any]]:
    """Documents and tokens of each source and language that the model was trained on."""
    sources = run.record["recipe"].get("ingest", {}).get("sources", [])
    licences = {source["name"]: source.get("license") for source in sources}
    for file in run.refs["tokenize"].committed().files("tokens"):
        if file.attributes.get("split") == "train":
            for part in file.attributes.get("composition") or [file.attributes]:
                yield {
                    "source": part["source"],
                    "license": licences.get(part["source"]),
                    "language": part["language"],
                    "documents": part["documents"],
                    "tokens": part["tokens"],
                }


def _evaluated(model: JobModel, workspace: str) -> Iterator[dict[str, Any]]:
    """What the evaluation of the run measured, where it was of this checkpoint."""
    run = model.run
    if run is None or model.sha256 not in run.checkpoints:
        return
    if "evaluate" not in run.refs or not run.refs["evaluate"].is_committed:
        return
    results = read_json(run.refs["evaluate"].committed().files("results")[0].path)
    if results["checkpoint"]["step"] != model.step:
        return
    notes = _marks(run, workspace)
    scores: list[tuple[str | None, Score]] = [(None, score) for score in main_scores(results)]
    known = {score.name for _, score in scores}
    further = (score for score in likelihood_scores(results, "perplexity") if score.name not in known)
    scores += [(None, score) for score in further]
    for name, found in results.get("minimal_pairs", {}).items():
        chance = {"chance": found["overall"]["chance"]}
        scores.append((name, Score("minimal_pair_accuracy", found["overall"]["accuracy"], chance)))
    scores += list(task_scores(results))
    for name, score in scores:
        against = ", ".join(f"{baseline.replace('_', ' ')} {value:.4g}" for baseline, value in score.baselines.items())
        title = score.title if name is None else f"{name}: {score.title}"
        yield {"metric": title, "value": score.value, "baseline": against, "note": notes.get(name or "")}


def _marks(run: WorkspaceRun, workspace: str) -> dict[str, str]:
    """By evaluation set: was the corpus cleaned of it? Empty where the recipe's files are not here any more."""
    try:
        plan = make_plan(run.record["recipe"], workspace)
        return {name: mark.note for name, mark in contamination.marks(plan).items()}
    except (ValueError, KeyError, OSError):
        return {}


def _judged(model: JobModel, workspace: Path) -> Iterator[dict[str, Any]]:
    """What suites of tasks measured of exactly these weights."""
    try:
        rows = read_scores(workspace)
    except ValueError:  # nothing was judged here
        return
    for row in rows:
        if row["weights_sha256"] == model.sha256:
            guessing = "" if row["baseline"] is None else f"guessing {row['baseline']:.4g}"
            yield {
                "metric": f"{row['task']}: {row['metric'].replace('_', ' ')}",
                "value": row["value"],
                "baseline": guessing,
                "note": row["contamination"],
            }
