"""Gather the facts of a run from the files that its stages committed."""

from __future__ import annotations

import importlib.metadata
import json
import math
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import fsspec

from pipeline.report.corpus import collect_corpus
from pipeline.report.facts import STAGE_NAMES, Curve, Facts, ModelFacts, StageFacts, TaskScore
from pipeline.store import EXECUTION, Committed, StageRef, read_json

PACKAGES = (
    "headrace",
    "prefect",
    "mlflow",
    "duckdb",
    "pyarrow",
    "numpy",
    "numba",
    "tokenizers",
    "gigatoken",
    "fasttext-community",
    "resiliparse",
    "torch",
)


def collect(
    recipe: dict[str, Any],
    refs: Mapping[str, StageRef],
    title: str,
    known: StageRef | None = None,
    suites: Sequence[Committed] = (),
) -> Facts:
    """Read everything that the report states. Stages may be missing or unfinished; what is of them is then empty.

    Of `suites`, judgings of whatever models, the scores of the run's own checkpoints are taken.
    """
    stages = {name: _stage(refs[name]) for name in STAGE_NAMES if name in refs}
    train = stages["train"].committed if "train" in stages else None
    evaluate = stages["evaluate"].committed if "evaluate" in stages else None
    return Facts(
        title,
        recipe,
        stages,
        collect_corpus(stages, known),
        _model(train, evaluate),
        _versions(),
        _suites(train, suites),
    )


def _stage(ref: StageRef) -> StageFacts:
    if not ref.is_committed:
        return StageFacts(ref)
    try:
        execution = read_json(f"{ref.path}/{EXECUTION}")
    except FileNotFoundError:  # a copy of a store may come without it: it is no part of the output
        execution = {}
    return StageFacts(ref, ref.committed(), execution)


def _model(train: Committed | None, evaluate: Committed | None) -> ModelFacts:
    curves: dict[str, Curve] = {}
    tokens_seen = None
    result: dict[str, Any] = {}
    if train is not None:
        for file in train.files("metrics"):
            curves, tokens_seen = read_metrics(_text(file.path))
        for file in train.files("result"):
            result = json.loads(_text(file.path))
    results = [json.loads(_text(file.path)) for file in evaluate.files("results")] if evaluate is not None else []
    return ModelFacts(curves, tokens_seen, result, results[0] if results else {})


def _suites(train: Committed | None, suites: Sequence[Committed]) -> list[TaskScore]:
    """The main scores of the checkpoints that the training wrote, and all perplexities."""
    files = [] if train is None else train.files("checkpoints")
    own = {file.sha256: file.attributes["step"] for file in files if file.path.endswith("/model.safetensors")}
    found = []
    for committed in suites:
        for row in (row for file in committed.files("scores") for row in file.table().to_pylist()):
            step = own.get(row["weights_sha256"])
            if step is not None and (row["main"] or row["metric"].endswith("perplexity")):
                facts = {name: row[name] for name in ("task", "metric", "value", "standard_error", "baseline", "items")}
                found.append(TaskScore(step=step, contamination=row["contamination"] or "", **facts))
    return found


def read_metrics(text: str) -> tuple[dict[str, Curve], int | None]:
    """Read a training journal: JSON lines {"step", "tokens", "time", "metrics": {name: value}}.

    Returns a curve for each metric, and the tokens seen at the end. A later line of the same step replaces an earlier
    one, as a resumed training repeats some steps; values that are not finite are left out, and so is a broken line.
    """
    values: dict[str, dict[int, float]] = {}
    tokens: int | None = None
    for line in text.splitlines():
        try:
            row = json.loads(line)
            step, metrics = int(row["step"]), dict(row["metrics"])
        except (ValueError, KeyError, TypeError):
            continue
        if isinstance(row.get("tokens"), int):
            tokens = max(tokens or 0, row["tokens"])
        for name, value in metrics.items():
            if isinstance(value, int | float) and math.isfinite(value):
                values.setdefault(str(name), {})[step] = float(value)
    curves = {}
    for name in sorted(values):
        steps = sorted(values[name])
        curves[name] = Curve(steps, [values[name][step] for step in steps])
    return curves, tokens


def _text(path: str) -> str:
    with fsspec.open(path, "rb") as stream:
        return stream.read().decode("utf-8", "replace")


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
