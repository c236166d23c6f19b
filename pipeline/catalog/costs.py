"""The view `costs`: what each finished stage of the run used, beside what had been expected of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.catalog.relations import values
from pipeline.costs import CostSettings
from pipeline.costs.stages import StageCost, stage_costs
from pipeline.store import Committed, StageRef

COSTS = "costs"
COMMENT = "time, energy, carbon and money of each finished stage of the run, beside what had been forecast of it"
_NUMBERS = "seconds core_hours device_hours kilowatt_hours carbon_grams money"
_COLUMNS = {
    "step": "INTEGER",
    "stage": "VARCHAR",
    **dict.fromkeys(_NUMBERS.split(), "DOUBLE"),
    "currency": "VARCHAR",
    "peak_memory_bytes": "BIGINT",
    "basis": "VARCHAR",
    **dict.fromkeys(("forecast_seconds", "forecast_kilowatt_hours", "forecast_money", "ratio"), "DOUBLE"),
    "forecast_basis": "VARCHAR",
    "fingerprint": "VARCHAR",
}


def costs_sql(stages: Mapping[str, StageRef | Committed], settings: CostSettings) -> str:
    """The query of the view; `ratio` is the time over the time that was forecast."""
    steps = {name: step for step, name in enumerate(stages)}
    return values([_row(stage, steps[stage.name], settings) for stage in stage_costs(stages, settings)], _COLUMNS)


def _row(stage: StageCost, step: int, settings: CostSettings) -> dict[str, Any]:
    row = {"step": step, "stage": stage.name, "fingerprint": stage.fingerprint, "currency": settings.currency or None}
    row |= {name: getattr(stage.cost, name) for name in (*_NUMBERS.split(), "peak_memory_bytes", "basis")}
    if stage.forecast is not None:
        names = ("seconds", "kilowatt_hours", "money")
        row |= {f"forecast_{name}": getattr(stage.forecast, name) for name in names}
        row |= {"ratio": stage.ratio, "forecast_basis": stage.forecast_basis}
    return row
