"""What `headrace plan` says of energy, carbon and money, and of the stages that a workspace does not have yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.table import Table

from flows.costs.forecast import forecast_of, write_forecast
from flows.plan import Plan as RunPlan
from pipeline.costs import Cost, CostSettings, account, total
from pipeline.costs.forecast import Forecast
from pipeline.costs.telling import amount, energy, hours, mass, prices
from pipeline.execution import available_cores
from pipeline.report.formats import duration

if TYPE_CHECKING:
    from training.planning import Plan


@dataclass(frozen=True)
class StageForecast:
    """A stage that is still to be done; without a cost where nothing tells what it will take."""

    name: str
    cost: Cost | None
    basis: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {"stage": self.name, "basis": self.basis, **({} if self.cost is None else as_json(self.cost))}


def as_json(cost: Cost) -> dict[str, Any]:
    """A cost as JSON."""
    return {"seconds": cost.seconds, "core_hours": cost.core_hours, **cost.figures, "energy_basis": cost.basis}


def planned_facts(planned: Plan, on_gpu: bool, threads: int = 0) -> dict[str, Any] | None:
    """What a planned training will use, as `account` takes it; None where nothing tells how long it takes.

    On a CPU all `threads` are busy (0: those of this machine), on GPUs one core for each.
    """
    if planned.hours is None:
        return None
    seconds = 3600 * planned.hours
    busy = 1 if on_gpu else threads or available_cores()
    return {
        "seconds": seconds,
        "cpu_seconds": seconds * planned.devices * busy,
        "host_memory_bytes": 0 if on_gpu else planned.memory.total,
        "device": "cuda" if on_gpu else "cpu",
        "device_name": planned.device,
        "processes": planned.devices,
    }


def forecasts(plan: RunPlan, training: Forecast | None, settings: CostSettings, measured: bool) -> list[StageForecast]:
    """The stages of a run that its workspace lacks, at these prices; `training` is the plan of that one, if it has any.

    A plan that was `measured` on this machine is noted beside the training's place in the store, to be compared with
    what happens; any other gives way to the most similar training of the store. Raises OSError where the workspace
    cannot be written.
    """
    found = []
    for name in plan.missing:
        stage, ref = plan.stages[name], plan.refs[name]
        if name == "train" and training is not None and measured:
            forecast: Forecast | None = training
            plan.store.prepare(ref)
            write_forecast(ref, training)
        else:
            forecast = forecast_of(plan.store, stage, ref, plan.stages["ingest"].identity())
            if name == "train" and forecast is None:
                forecast = training
        cost = account(forecast.facts, settings) if forecast is not None else None
        found.append(StageForecast(name, cost, forecast.basis if forecast is not None else "nothing to compare with"))
    return found


def cost_rows(cost: Cost, settings: CostSettings) -> dict[str, str]:
    """Energy, carbon and money of a training, each with what it rests on."""
    rows = {
        "energy": f"{energy(cost.kilowatt_hours)} ({cost.basis}; PUE {settings.pue:g})",
        "carbon": f"{mass(cost.carbon_grams)} CO2e at {settings.carbon_grams_per_kwh:g} g a kilowatt-hour",
    }
    if settings.priced:
        spent = f"{hours(cost.device_hours)} of devices, {hours(cost.core_hours)} of cores"
        rows["cost"] = f"{amount(cost.money, settings)} for {spent}; {prices(settings)}"
    return rows


def forecast_table(stages: Sequence[StageForecast], settings: CostSettings) -> Table:
    """The stages that are missing, and what those of them that are known come to together."""
    table = Table(title="Stages still to be done", title_justify="left", header_style="bold")
    for column in ("stage", "time", "cores", "energy", "CO2e", *(["money"] if settings.priced else []), "by"):
        table.add_column(column, justify="left" if column in ("stage", "by") else "right")
    for stage in stages:
        table.add_row(*_cells(stage.name, stage.cost, stage.basis, settings))
    table.add_section()
    known = total(stage.cost for stage in stages if stage.cost is not None)
    missing = sum(stage.cost is None for stage in stages)
    table.add_row(*_cells("in all", known, f"without {missing} that are not known" if missing else "", settings))
    return table


def _cells(name: str, cost: Cost | None, basis: str, settings: CostSettings) -> list[str]:
    if cost is None:
        return [name, *["?"] * (5 if settings.priced else 4), basis]
    cells = [duration(cost.seconds), hours(cost.core_hours), energy(cost.kilowatt_hours), mass(cost.carbon_grams)]
    return [name, *cells, *([amount(cost.money, settings)] if settings.priced else []), basis]
