"""Energy, carbon and money of each stage, beside what had been expected of it."""

from __future__ import annotations

from pipeline.costs import Cost, CostSettings, total
from pipeline.costs.settings import settings_of
from pipeline.costs.stages import StageCost, stage_costs
from pipeline.costs.telling import amount, energy, hours, mass, prices
from pipeline.report.facts import Facts
from pipeline.report.formats import DASH, duration
from pipeline.report.markup import Child, Markup, el, join
from pipeline.report.tables import Cell, Column, table


def run_costs(facts: Facts) -> tuple[list[StageCost], CostSettings]:
    """What the run's finished stages cost at the prices of its recipe."""
    settings = settings_of(facts.recipe)
    return stage_costs({name: stage.ref for name, stage in facts.stages.items()}, settings), settings


def costs_table(facts: Facts) -> Markup | None:
    """Return the table of the stages and their sum, and what the energies rest on; None before a stage has finished."""
    stages, settings = run_costs(facts)
    if not stages:
        return None
    whole = total(stage.cost for stage in stages)
    rows = [_row(stage.name, stage.cost, stage, settings) for stage in stages]
    rows.append(_row("in all", whole, None, settings))
    columns = [
        Column("Stage", "name"),
        Column("Cores", "number", "Processor time of all processes"),
        Column("Devices", "number", "Time of the devices that train: GPUs, or the machine's CPU as a whole"),
        Column("Energy", "number", f"With a PUE of {settings.pue:g}"),
        Column("CO2e", "number", f"At {settings.carbon_grams_per_kwh:g} g a kilowatt-hour"),
        Column("Money", "number", prices(settings)),
        Column("Expected", "number", "Time that was forecast before the stage ran"),
        Column("Ratio", "number", "Time over the time that was expected"),
    ]
    if not settings.priced:
        columns, rows = _without(columns, rows, 5)
    if all(stage.forecast is None for stage in stages):
        columns, rows = _without(*_without(columns, rows, len(columns) - 1), len(columns) - 2)
    return join([el("h3", "Energy and money"), table(columns, rows, sortable=False), *_told(stages, whole, settings)])


def _row(name: str, cost: Cost, stage: StageCost | None, settings: CostSettings) -> list[Child]:
    expected = stage.forecast.seconds if stage is not None and stage.forecast is not None else None
    ratio = stage.ratio if stage is not None else None
    return [
        name if stage is not None else el("b", name),
        hours(cost.core_hours),
        hours(cost.device_hours) if cost.device_hours else DASH,
        energy(cost.kilowatt_hours),
        mass(cost.carbon_grams),
        amount(cost.money, settings),
        duration(expected),
        Cell(f"{ratio:.2f}" if ratio is not None else DASH, ratio, tip=stage.forecast_basis if stage else None),
    ]


def _told(stages: list[StageCost], whole: Cost, settings: CostSettings) -> list[Markup]:
    lines = [f"Energy: {whole.basis}. Carbon: {settings.carbon_grams_per_kwh:g} g a kilowatt-hour."]
    if settings.priced:
        lines.append(f"Money: {prices(settings)}.")
    compared = [stage for stage in stages if stage.forecast is not None]
    if compared:
        expected = total(stage.forecast for stage in compared if stage.forecast is not None)
        real = total(stage.cost for stage in compared)
        told = f"{len(compared)} of {len(stages)} stages had a forecast: {duration(expected.seconds)} and "
        told += f"{energy(expected.kilowatt_hours)}; they took {duration(real.seconds)} and "
        lines.append(told + f"{energy(real.kilowatt_hours)}.")
    return [el("p", line, class_="caption") for line in lines]


def _without(columns: list[Column], rows: list[list[Child]], place: int) -> tuple[list[Column], list[list[Child]]]:
    return columns[:place] + columns[place + 1 :], [row[:place] + row[place + 1 :] for row in rows]
