"""`headrace plan`: what a recipe's training will take, before anything is there but the recipe."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.costs.planned import StageForecast, as_json, cost_rows, forecast_table, forecasts, planned_facts
from flows.plan import make_plan
from flows.recipe import Recipe, load_recipe
from pipeline.costs import Cost, CostSettings, account
from pipeline.costs.forecast import Forecast
from training.config import TrainingRun
from training.events import duration
from training.planning import DeviceSpec, Plan, find_device, plan
from training.planning.devices import this_device


@dataclass(frozen=True)
class PlannedCosts:
    """What a plan costs at which prices, and the stages that a workspace lacks."""

    settings: CostSettings
    cost: Cost | None
    stages: tuple[StageForecast, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        told = None if self.cost is None else as_json(self.cost)
        return {"costs": told, "stages": [stage.to_dict() for stage in self.stages]}


def planned_run(recipe: Recipe) -> TrainingRun:
    """The recipe's training without its data: the vocabulary is as large as its tokenizer is to become."""
    train = recipe.priced_train
    return TrainingRun(
        data=[],
        vocabulary_size=recipe.tokenizer.vocabulary_size,
        end_of_text=0,
        output_dir=".",
        model=train.model,
        objective=train.objective,
        optimizer=train.optimizer,
        schedule=train.schedule,
        training=train.training,
    )


def plan_recipe(
    recipe: str,
    overrides: list[str],
    device: str | None = None,
    devices: int | None = None,
    price: float | None = None,
    mfu: float | None = None,
    measure: bool = False,
) -> Plan:
    """Plan a recipe on `devices` of a kind; by default on this machine's, one for each of the recipe's processes.

    `measure` takes a few real steps on this machine. Raises ValueError for a recipe or device that is wrong, and for
    a measurement of a device that is not here.
    """
    loaded = load_recipe(recipe, overrides)
    run = planned_run(loaded)
    spec = this_device(run.training.device) if device is None else find_device(device)
    if measure and not _is_here(spec):
        raise ValueError(f"--measure takes steps on this machine, which has no {spec.name}; leave it out, or say --mfu")
    count = devices or loaded.train.processes
    with warnings.catch_warnings():
        # torch says how a CPU would compute what is only played through here.
        warnings.filterwarnings("ignore", "Mismatch dtype between input and weight")
        planned = plan(run, spec, count, mfu=mfu, price=price)
    if not measure or not planned.fits:
        return planned
    return plan(run, spec, count, price=price, seconds_per_step=_measured(run, spec, planned))


def _is_here(spec: DeviceSpec) -> bool:
    here = this_device(spec.kind)
    if here.kind != spec.kind or here.kind == "cpu":
        return here.kind == spec.kind
    return spec.name in (here.name, find_device(here.name).name)


def _measured(run: TrainingRun, spec: DeviceSpec, planned: Plan) -> float:
    """Seconds of one step of one process, on this machine."""
    import torch

    from training.devices import resolve
    from training.distributed import World
    from training.planning.measurement import measure_seconds
    from training.planning.memory import step_settings

    device = torch.device(spec.kind)
    resolve(run.training, World())
    return measure_seconds(step_settings(run, spec, planned.devices, planned.device_batch_size), device)


def plan_costs(
    recipe: str, overrides: list[str], planned: Plan, price: float | None, workspace: str | None, measured: bool
) -> PlannedCosts:
    """What a planned training costs, and in a workspace each stage that it lacks.

    Where its steps were `measured` on this machine, in as many processes as the recipe's, the training's forecast is
    kept in the workspace. Raises ValueError as `make_plan` does, OSError where the
    workspace cannot be written.
    """
    loaded = load_recipe(recipe, overrides)
    settings = loaded.prices if price is None else loaded.prices.model_copy(update={"price_per_device_hour": price})
    facts = planned_facts(planned, not planned.device.startswith("CPU"), loaded.train.training.threads)
    cost = account(facts, settings) if facts is not None else None
    if workspace is None:
        return PlannedCosts(settings, cost, ())
    known = Forecast(facts, f"headrace plan, {planned.mfu_source}") if facts is not None else None
    measured = measured and planned.devices == loaded.train.processes
    stages = forecasts(make_plan(recipe, workspace, overrides), known, settings, measured)
    return PlannedCosts(settings, cost, tuple(stages))


def print_plan(console: Console, planned: Plan, costs: PlannedCosts) -> None:
    """Print a plan: size, memory by what it goes to, time and cost, and what to change where it does not fit."""
    console.print(_facts(planned, costs))
    console.print(_memory(planned))
    if costs.stages:
        console.print(forecast_table(costs.stages, costs.settings))
    if planned.fits:
        return
    console.print(
        f"[red]This does not fit[/]: {_at_most(planned)}{_bytes(planned.memory.total)} "
        f"of {_bytes(planned.device_memory)} on {escape(planned.device)}.",
        highlight=False,
    )
    for change in planned.changes:
        told = " ".join(_option(key, value) for key, value in change["settings"].items())
        console.print(f"  fits with {_bytes(change['memory'])}:  {escape(told)}", highlight=False, soft_wrap=True)
    if not planned.changes:
        console.print("  No setting here makes it fit: take a smaller model or shorter sequences.", highlight=False)


def _facts(planned: Plan, costs: PlannedCosts) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    parts = ", ".join(f"{name} {_count(size)}" for name, size in planned.parameters_by_part.items() if size)
    count = f"{planned.devices} x " if planned.devices > 1 else ""
    compiled = ", compiled" if planned.compiled else ""
    parallel = f", {planned.parallel}" if planned.devices > 1 else ""
    rows = {
        "parameters": f"{planned.parameters:,} ({parts})",
        "FLOPs a token": f"{_count(planned.flops_per_token)} (PaLM, appendix B; causal attention counted in full)",
        "tokens": f"{_count(planned.tokens)} in {planned.steps:,} steps of {planned.tokens_per_step:,}",
        "device": f"{count}{planned.device}, {planned.precision}{compiled}{parallel}",
        "micro-batch": f"{planned.device_batch_size:,} sequences at once, {planned.micro_batches:,} "
        f"{'pass' if planned.micro_batches == 1 else 'passes'} a step; "
        f"recompute {planned.recompute}, logits {planned.logits}",
        "time": _time(planned),
    }
    if costs.cost is not None:
        rows |= cost_rows(costs.cost, costs.settings)
    for name, value in rows.items():
        table.add_row(f"[dim]{name}[/]", escape(value))
    return table


def _memory(planned: Plan) -> Table:
    memory = planned.memory
    title = f"Memory of a device at the worst moment of a step ({memory.moment})"
    table = Table(title=title, title_justify="left", header_style="bold")
    table.add_column("what")
    table.add_column("size", justify="right")
    table.add_column("share", justify="right")
    for name, size in memory.parts.items():
        if size:
            table.add_row(_NAMES.get(name, name), _bytes(size), f"{size / memory.total:.0%}")
    table.add_section()
    table.add_row("in all, at most" if memory.upper_bound else "in all", _bytes(memory.total), "")
    device = f"{memory.total / planned.device_memory:.0%} used"
    table.add_row("the device has", _bytes(planned.device_memory), device)
    return table


def _at_most(planned: Plan) -> str:
    """What goes before a sum that is an upper bound."""
    return "at most " if planned.memory.upper_bound else ""


_NAMES = {
    "optimizer": "optimiser state",
    "average": "average of the weights",
    "logits": "logits and head",
    "workspace": "temporaries",
}


def _time(planned: Plan) -> str:
    if planned.hours is None or planned.seconds_per_step is None:
        return "unknown: nothing tells how fast this device is; --measure takes a few steps on this machine"
    rate = planned.tokens_per_step / planned.seconds_per_step
    basis = {"given": "as given", "assumed": "assumed; set yours with --mfu"}.get(planned.mfu_source, "measured")
    mfu = f"MFU {planned.mfu:.2f}, {basis}" if planned.mfu is not None else basis
    time = duration(3600 * planned.hours)
    return f"{time} at {_count(int(rate))} tokens/s ({mfu}); evaluation and checkpoints come on top"


def _option(key: str, value: Any) -> str:
    return f"--devices {value}" if key == "devices" else f"--set train.training.{key}={value}"


def _count(number: float) -> str:
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:,.3g} {unit}" if number < 1000 * size else f"{number / size:,.0f} {unit}"
    return f"{number:,}"


def _bytes(size: int) -> str:
    return f"{size / 1e9:,.2f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"
