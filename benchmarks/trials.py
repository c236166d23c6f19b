"""A study of trainings of one step, timed: what a trial costs beside its training. See benchmarks.orchestration."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.rows import Row

_WORDS = "river mill wheel water stone grain valley bridge winter market letter garden boat lamp song window".split()
_ALONE = 3  # trainings as processes of their own


def trial_rows(trials: int) -> list[Row]:
    """The rows of the table: seconds a trial beside the training, in all and by part."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(
            PREFECT_HOME=f"{folder}/prefect",
            PREFECT_LOGGING_LEVEL="ERROR",
            PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS="180",
            DO_NOT_TRACK="true",
        )
        facts = _study(trials, Path(folder))
    peer, name = facts["alone"], "python -m training train"
    return [
        Row("trial, beside the training", "s", facts["beside"], None, "prefect", version("prefect")),
        Row(
            "trial, whole", "s", facts["whole"], peer, name, "this version", "the peer without commit, MLflow, Prefect"
        ),
        Row(
            "trial, MLflow", "s", facts["mlflow"], None, "mlflow", version("mlflow"), "in a thread beside the training"
        ),
        Row("start of the worker", "s", facts["first"] - facts["beside"], note="once in a study"),
        Row("end of the study", "s", facts["finish"], note="page, artifacts, catalog, what MLflow still lacks"),
        Row("disk of a trial", "MB", facts["megabytes"]),
    ]


def _study(trials: int, folder: Path) -> dict[str, Any]:
    from prefect import flow

    from flows.studies.recipe import StudyRecipe
    from flows.studies.study import Study
    from flows.studies.trial import Trial
    from pipeline.report.study import Page
    from training.tracking import delivery

    calls: list[float] = []
    send = delivery.send_trial

    def timed_send(*arguments: Any, **values: Any) -> str:
        started = time.perf_counter()
        try:
            return send(*arguments, **values)
        finally:
            calls.append(time.perf_counter() - started)

    delivery.send_trial = timed_send
    recipe = StudyRecipe(name="trials", base=_base(folder))
    workspace = str(folder / "workspace")
    facts: dict[str, Any] = {}

    @flow(name="trials")
    def study_flow() -> None:
        with Study("scaling", recipe, workspace) as study:
            study.prepare()
            seeds = [Trial(f"seed-{seed}", (f"train.training.seed={seed}",), {"seed": seed}) for seed in range(trials)]
            started = time.perf_counter()
            outcomes = study.run(seeds)
            wall = time.perf_counter() - started
            first = outcomes[0].overhead
            rest = outcomes[1:] or outcomes
            trained = sum(_trained(study.plan(one.trial.overrides)) for one in rest)
            facts["first"] = first
            facts["whole"] = (wall - first) / len(rest)
            facts["beside"] = facts["whole"] - trained / len(rest)
            size = sum(
                path.stat().st_size for path in Path(outcomes[0].checkpoint).parents[1].rglob("*") if path.is_file()
            )
            facts["megabytes"] = size / 1e6
            facts["alone"] = _alone(study.plan(["train.training.seed=1000"]), folder)
            started = time.perf_counter()
            study.finish({}, Page("Trials", [f"{len(outcomes)} trials."]))
            facts["finish"] = time.perf_counter() - started

    study_flow()
    facts["mlflow"] = sum(calls) / len(calls)
    return facts


def _trained(plan: Any) -> float:
    """Seconds of the training process's own work."""
    return float(plan.refs["train"].committed().manifest["summary"]["seconds"])


def _alone(plan: Any, folder: Path) -> float:
    """Seconds of the same training as a process of its own."""
    import dataclasses
    import json

    times = []
    for number in range(_ALONE):
        work = folder / f"alone-{number}"
        work.mkdir()
        run = plan.stages["train"].run_config(plan.refs["tokenize"].committed(), work)
        (work / "config.json").write_text(json.dumps(dataclasses.asdict(run)))
        started = time.perf_counter()
        command = [sys.executable, "-m", "training", "train", str(work / "config.json")]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - started)
    return sorted(times)[len(times) // 2]


def _base(folder: Path) -> dict[str, Any]:
    """A run recipe over a corpus of made-up sentences, trained for one step."""
    generator = random.Random(1)
    lines = []
    for _ in range(200):
        words = [" ".join(generator.choices(_WORDS, k=12)).capitalize() + "." for _ in range(12)]
        lines.append('{"text": "' + " ".join(words) + '"}')
    (folder / "made-up.jsonl").write_text("\n".join(lines) + "\n")
    return {
        "name": "made-up",
        "ingest": {"sources": [{"name": "made-up", "format": "jsonl", "path": str(folder / "made-up.jsonl")}]},
        "filter": {"gopher_quality": None, "gopher_repetition": None, "c4": None, "fineweb": None},
        "tokenizer": {"vocabulary_size": 512, "validation_fraction": 0.1},
        "train": {
            "model": {"layers": 2, "heads": 2, "width": 32, "context_length": 64},
            "training": {"steps": 1, "batch_size": 4, "evaluation_batches": 1},
        },
        "execution": {"workers": 0, "tasks_per_stage": 1},
    }
