"""What a finished run cost, for MLflow, Prefect and the terminal."""

from __future__ import annotations

from flows.plan import Plan
from pipeline.costs import Cost, total
from pipeline.costs.stages import StageCost, stage_costs
from pipeline.costs.telling import hours, sentence


def run_costs(plan: Plan) -> list[StageCost]:
    """The costs of the stages that a run is made of, at its prices, whichever run did them."""
    return stage_costs(plan.refs, plan.recipe.prices)


def metrics(plan: Plan) -> dict[str, float]:
    """MLflow's metrics: `cost/<figure>` of the run, `cost/<stage>/<figure>` of each stage.

    `cost/forecast_ratio` is the time over the time that was forecast, of the stages that had a forecast. Money stands
    there only where something has a price.
    """
    stages = run_costs(plan)
    found = {f"cost/{name}": value for name, value in _figures(total(stage.cost for stage in stages), plan).items()}
    for stage in stages:
        found |= {f"cost/{stage.name}/{name}": value for name, value in _figures(stage.cost, plan).items()}
        if stage.ratio is not None:
            found[f"cost/{stage.name}/forecast_ratio"] = stage.ratio
    ratio = forecast_ratio(stages)
    return found if ratio is None else found | {"cost/forecast_ratio": ratio}


def line(plan: Plan) -> str:
    """The run's cost in a line; empty where no stage has left a record."""
    stages = run_costs(plan)
    if not stages:
        return ""
    whole, ratio = total(stage.cost for stage in stages), forecast_ratio(stages)
    told = f"{hours(whole.core_hours)} of cores, {sentence(whole, plan.recipe.prices)}"
    return told + (f", {ratio:.2f} times the time that was forecast" if ratio is not None else "")


def forecast_ratio(stages: list[StageCost]) -> float | None:
    """Time over forecast time of the stages that had a forecast; None where none had."""
    compared = [(stage.cost.seconds, stage.forecast.seconds) for stage in stages if stage.forecast is not None]
    expected = sum(forecast for _, forecast in compared)
    return sum(seconds for seconds, _ in compared) / expected if expected else None


def _figures(cost: Cost, plan: Plan) -> dict[str, float]:
    figures = {"seconds": cost.seconds, "core_hours": cost.core_hours, **cost.figures}
    if not plan.recipe.prices.priced:
        del figures["money"]
    return figures
