"""What came of a trial, read from what its training committed, or left behind."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flows.costs.training import training_cost
from flows.plan import Plan
from flows.studies.trial import Outcome, Point, State, Trial
from flows.training_stages import checkpoint_folder
from pipeline.store import Committed


class Clock:
    """Tells the time of a training process's own work from that of everything around it, waiting left out."""

    def __init__(self) -> None:
        self._created = time.perf_counter()
        self._started: float | None = None
        self._waiting: float | None = None
        self._trained = self._waited = 0.0

    def wait(self) -> None:
        """Somebody else has the device or the training: from here on nothing is held."""
        if self._waiting is None:
            self._waiting = time.perf_counter()

    def go_on(self) -> None:
        """The waiting is over, if there was any."""
        if self._waiting is not None:
            self._waited += time.perf_counter() - self._waiting
            self._waiting = None

    def start(self) -> None:
        """The trainer is about to take its first step."""
        self.go_on()
        self._started = time.perf_counter()

    def stop(self) -> None:
        """It has come to an end."""
        if self._started is not None:
            self._trained += time.perf_counter() - self._started
            self._started = None

    def overhead(self) -> float:
        """Seconds since the clock was made in which nothing was trained, and nobody waited for."""
        self.stop()
        self.go_on()
        return round(time.perf_counter() - self._created - self._trained - self._waited, 3)


def outcome_of(trial: Trial, committed: Committed, known: Outcome | None = None) -> Outcome:
    """The outcome of a committed training; its overhead and cost are those `known` from before, where it was."""
    summary = committed.manifest["summary"]
    (journal,) = committed.files("metrics")
    config = committed.manifest["config"]
    flops_per_token = float(summary["flops_per_token"])
    rows = _rows(Path(journal.path))
    curve = _curve(rows, flops_per_token)
    loss = summary["metrics"].get("validation/loss", curve[-1].loss if curve else math.nan)
    tokens = int(summary["tokens"])
    return Outcome(
        trial,
        "finished",
        loss=float(loss),
        curve=curve,
        parameters=int(summary["parameters"]),
        matrix_parameters=_matrix_parameters(config, flops_per_token),
        tokens=tokens,
        flops=flops_per_token * tokens,
        seconds=_seconds(rows, tokens) or float(summary["seconds"]),
        overhead=known.overhead if known is not None else 0.0,
        cost=dict(known.cost) if known is not None else {},
        fingerprint=committed.fingerprint,
        checkpoint=str(checkpoint_folder(committed, "final")),
    )


def unfinished(trial: Trial, plan: Plan, state: State, error: str, start: Mapping[str, Any] | None = None) -> Outcome:
    """The outcome of a training that did not come to its end: what its journal holds, and why it ended.

    `start` is the trainer's event of that name, if it came so far.
    """
    ref = plan.refs["train"]
    rows = _rows(Path(ref.path, "work", "metrics.jsonl"))
    tokens = int(rows[-1]["tokens"]) if rows else 0
    flops_per_token = float(start["flops_per_token"]) if start else 0.0
    curve = _curve(rows, flops_per_token)
    config = plan.stages["train"].identity()
    return Outcome(
        trial,
        state,
        error,
        loss=curve[-1].loss if curve else math.nan,
        curve=curve,
        parameters=int(start["parameters"]) if start else 0,
        matrix_parameters=_matrix_parameters(config, flops_per_token) if start else 0,
        tokens=tokens,
        flops=flops_per_token * tokens,
        seconds=_seconds(rows, tokens),
        cost=training_cost(plan, start),
        fingerprint=ref.fingerprint,
        guard=guard_of(plan),
    )


def spares_training(known: Outcome, plan: Plan) -> bool:
    """Whether the record of a trial that has no training in the store says that there will be none.

    The guard is no part of a training's identity, and its own message advises to change it: what it ended under other
    settings is trained again.
    """
    return known.state == "pruned" or (known.state == "diverged" and known.guard == guard_of(plan))


def guard_of(plan: Plan) -> dict[str, float]:
    """The settings of training.guard that decide whether a training of a plan is given up as diverged."""
    values = dataclasses.asdict(plan.stages["train"].config.training.guard)
    return {name: float(value) for name, value in values.items() if not name.startswith("stall")}


def _rows(path: Path) -> list[dict[str, Any]]:
    """The lines of a journal; a last one that was cut short is left out."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return []
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
            rows.append({"step": int(row["step"]), "tokens": int(row["tokens"]), "metrics": dict(row["metrics"])})
        except (ValueError, KeyError, TypeError):
            break
    return rows


def _curve(rows: Iterable[Mapping[str, Any]], flops_per_token: float) -> tuple[Point, ...]:
    """The held-out evaluations of a journal; a step that was written twice counts once, as it stands last."""
    points = {
        row["step"]: Point(row["step"], row["tokens"], flops_per_token * row["tokens"], float(loss))
        for row in rows
        if isinstance(loss := row["metrics"].get("validation/loss"), int | float)
    }
    return tuple(points[step] for step in sorted(points))


def _seconds(rows: Iterable[Mapping[str, Any]], tokens: int) -> float:
    """Seconds of the steps alone, by the speed that the journal names; 0 where it names none.

    Each row's speed holds for the tokens since the row before it. Tokens that no row tells of went at the mean speed.
    """
    seconds, told = 0.0, 0
    for row in rows:
        speed = row["metrics"].get("train/tokens_per_second")
        if isinstance(speed, int | float) and speed > 0 and row["tokens"] > told:
            seconds += (row["tokens"] - told) / speed
            told = row["tokens"]
    return round(seconds * tokens / told, 3) if told else 0.0


def _matrix_parameters(config: Mapping[str, Any], flops_per_token: float) -> int:
    """N of PaLM's 6 N + 12 L T H K FLOPs a token (appendix B), which the trainer counts: all but attention's own part.

    Of architectures other than the decoder and the encoder, whose attention is counted otherwise, a sixth of all FLOPs.
    """
    model, training = config["model"], config["training"]
    if model.get("architecture", "transformer") != "transformer":
        return round(flops_per_token / 6)
    length = training.get("sequence_length") or model["context_length"]
    attention = 12 * model["layers"] * model["heads"] * _head_width(model) * length
    return round((flops_per_token - attention) / 6)


def _head_width(model: Mapping[str, Any]) -> int:
    return int(model.get("head_width") or model["width"] // model["heads"])
