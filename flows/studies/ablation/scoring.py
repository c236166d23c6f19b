"""The judging of an ablation's trainings: what each held-out document costs the last checkpoint of each."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flows.progress import publish
from flows.studies.study import Study
from flows.studies.trial import Outcome
from flows.training_stages import token_shards
from pipeline.execution import available_cores
from pipeline.store import Committed, StoreError, unwritable
from pipeline.tokens.shards import VALIDATION


def score_outcomes(
    study: Study, outcomes: Sequence[Outcome], held_out: Committed
) -> tuple[dict[str, NDArray[np.float64]], dict[str, str]]:
    """By trial the nats of each held-out document's text (D,); and by trial why it is left out.

    What was scored once lies in the study's folder and is read again. Raises StoreError where the disk is full.
    """
    scores: dict[str, NDArray[np.float64]] = {}
    excluded: dict[str, str] = {}
    for number, outcome in enumerate(outcomes):
        name = outcome.trial.name
        publish({"stage": "trials", "line": f"judging {name} ({number + 1} of {len(outcomes)})"})
        if not outcome.finished:
            excluded[name] = f"{outcome.state}: {outcome.error}"
            continue
        try:
            scores[name] = _scored(study, outcome, held_out)
        except ValueError as error:
            excluded[name] = str(error)
    return scores, excluded


def _scored(study: Study, outcome: Outcome, held_out: Committed) -> NDArray[np.float64]:
    """One trial's nats. Raises ValueError where its model cannot be judged, saying why."""
    folder = study.folder / "held-out"
    output = folder / f"{outcome.fingerprint}.npy"
    shards = [shard for shard in token_shards(held_out) if shard.split == VALIDATION]
    documents = sum(shard.documents for shard in shards)
    known = _read(output, documents)
    if known is not None:
        return known
    config = folder / f"{outcome.fingerprint}.json"
    order = {
        "checkpoint": outcome.checkpoint,
        "data": [dataclasses.asdict(shard) for shard in shards],
        "output": str(output),
        "threads": study.recipe.threads or available_cores(),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        config.write_text(json.dumps(order, ensure_ascii=False, indent=1), encoding="utf-8")
    except OSError as error:
        raise unwritable(str(folder), error) from error
    with study.worker() as worker:
        ending = worker.score(config)
        if ending.state in ("died", "failed"):  # the process, not the model
            ending = worker.score(config)
    if ending.state == "full":
        raise StoreError(f"{ending.message}; free some space and start the same command again")
    found = _read(output, documents)
    if ending.state != "finished" or found is None:
        raise ValueError(f"could not be judged on held-out documents: {ending.message or ending.state}")
    return found


def _read(path: Path, documents: int) -> NDArray[np.float64] | None:
    """What was scored before, if it is whole and of these documents: the nats of the texts."""
    try:
        nats = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if nats.shape != (documents, 2) or nats.dtype != np.float64:
        return None
    return np.asarray(nats[:, 0])
