"""What the committed stages of a run used, from the records beside their manifests, beside what was forecast."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.costs.account import Cost, account, devices
from pipeline.costs.settings import CostSettings
from pipeline.store import EXECUTION, Committed, StageRef, is_local, read_json

FORECAST = "forecast.json"
"""Beside a stage's manifest: what it was expected to use, written before it ran. No part of its identity."""
METERS = ("cpu_joules", "memory_joules", "gpu_joules", "cpu_meter", "gpu_meter")


@dataclass(frozen=True)
class StageCost:
    """A committed stage's cost, beside what had been expected."""

    name: str
    fingerprint: str
    cost: Cost
    forecast: Cost | None = None
    forecast_basis: str = ""

    @property
    def ratio(self) -> float | None:
        """Time over the time that was expected; None where nothing was."""
        expected = self.forecast.seconds if self.forecast is not None else 0.0
        return self.cost.seconds / expected if expected else None


def stage_costs(stages: Mapping[str, StageRef | Committed], settings: CostSettings) -> list[StageCost]:
    """The costs of those stages that are committed and have a record of their execution, in their order.

    A stage that was finished in several runs is not set beside its forecast: its record tells the time of the last one.
    """
    committed = {}
    for name, stage in stages.items():
        if isinstance(stage, Committed):
            committed[name] = stage
        elif stage.is_committed:
            committed[name] = stage.committed()
    found = []
    for name, stage in committed.items():
        facts = stage_facts(stage, committed.get("train"))
        if not facts:
            continue
        in_parts = bool(_beside(stage.path, EXECUTION).get("units_of_earlier_runs"))
        expected, basis = _expected(stage, facts) if not in_parts or name == "train" else ({}, "")
        with contextlib.suppress(ValueError):  # a record that tells of less than nothing is a broken one
            forecast = account(expected, settings) if expected else None
            found.append(StageCost(name, stage.fingerprint, account(facts, settings), forecast, basis))
    return found


def stage_facts(stage: Committed, train: Committed | None = None) -> dict[str, Any]:
    """What a stage used, as `account` takes it; empty where no record of its execution is left.

    `train` is the training whose device an evaluation uses, too.
    """
    execution = _beside(stage.path, EXECUTION)
    if not execution:
        return {}
    facts = {
        "seconds": execution.get("wall_seconds"),
        "cpu_seconds": execution.get("cpu_seconds"),
        "host_memory_bytes": execution.get("peak_memory_bytes"),
        **{name: execution[name] for name in METERS if name in execution},
    }
    if stage.name == "train":
        return facts | _trained(facts, _result(stage))
    if stage.name == "evaluate" and train is not None:
        result = _result(train)
        if str(result.get("device")).startswith("cuda"):
            facts |= {"device": "cuda", "device_name": result.get("device_name"), "processes": 1}
    return facts


def _trained(facts: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    """What the training process says of itself: a training that was resumed is counted from its first step."""
    if not result:
        return {}
    seconds = result.get("seconds") or 0.0
    told: tuple[str, ...] = ("device", "device_name", "processes", "gpu_joules", "gpu_meter")
    if seconds > (facts["seconds"] or 0.0):  # the record's meter saw the last part of it alone
        told += ("cpu_joules", "memory_joules", "cpu_meter")
    own = {name: result.get(name) for name in told}
    return own | {
        "seconds": max(facts["seconds"] or 0.0, seconds),
        "cpu_seconds": max(facts["cpu_seconds"] or 0.0, result.get("cpu_seconds") or 0.0),
        "host_memory_bytes": max(facts["host_memory_bytes"] or 0, result.get("host_memory_bytes") or 0),
        "device_hours": seconds * devices(result) / 3600,
    }


def _expected(stage: Committed, facts: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The facts of a stage's forecast and what they rest on; of a training on a GPU, at least what its plan said."""
    forecast = _beside(stage.path, FORECAST)
    if forecast:
        return dict(forecast["facts"]), str(forecast["basis"])
    planned = _result(stage).get("planned_seconds") if stage.name == "train" else None
    if not planned:
        return {}, ""
    kept = {name: facts[name] for name in ("device", "device_name", "processes", "host_memory_bytes") if name in facts}
    return {**kept, "seconds": planned, "cpu_seconds": planned * (kept.get("processes") or 1)}, "plan"


def _result(train: Committed) -> dict[str, Any]:
    files = train.files("result")
    return dict(files[0].attributes) if files else {}


def _beside(path: str, name: str) -> dict[str, Any]:
    """A JSON object beside a manifest; empty where there is none, or it is damaged: it is no part of the output."""
    if is_local(path) and not Path(path, name).exists():
        return {}
    try:
        found = read_json(f"{path}/{name}")
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
