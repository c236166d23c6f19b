"""A scaling study as numbers: results.json, metrics and tables."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flows.studies.scaling.ladder import Ladder
from flows.studies.scaling.recipe import ScalingRecipe
from flows.studies.trial import Outcome
from training.scaling import Analysis, Forecast, Optimum

APPROACHES = {"envelope": "1, envelope", "isoflop": "2, IsoFLOP", "parametric": "3, parametric"}
"""Chinchilla's approaches as tables name them."""


@dataclass(frozen=True)
class Findings:
    """All that a study came to."""

    recipe: ScalingRecipe
    ladder: Ladder
    outcomes: tuple[Outcome, ...]
    unique_tokens: int
    """Train tokens of the corpus; what sees more sees them again."""
    problem: str = ""
    """Why no law could be fitted."""
    analysis: Analysis | None = None
    forecast: Forecast | None = None
    forecast_problem: str = ""
    """Why there is none, though the recipe asks for one."""
    forecast_before: bool = True
    """Whether the forecast was on record before the held-out run was trained."""
    held_out: Outcome | None = None

    @property
    def measured(self) -> float | None:
        """The held-out run's loss; None where it did not finish."""
        return self.held_out.loss if self.held_out is not None and self.held_out.finished else None

    def budgets(self) -> list[float]:
        """FLOPs for which the best size is told."""
        largest = max(outcome.flops for outcome in self.outcomes)
        return sorted({*self.recipe.budgets, largest, 10 * largest, 100 * largest})

    def optima(self) -> dict[str, list[Optimum]]:
        """Best size and tokens at those budgets, by approach."""
        if self.analysis is None:
            return {}
        frontiers = self.analysis.frontiers()
        return {name: [law.optimum(flops) for flops in self.budgets()] for name, law in frontiers.items()}


def results_of(findings: Findings) -> dict[str, Any]:
    """What stands in results.json, with `metrics` and `tables` as `Study.finish` takes them."""
    analysis, forecast, measured = findings.analysis, findings.forecast, findings.measured
    found: dict[str, Any] = {
        "metrics": _metrics(findings),
        "tables": _tables(findings),
        "ladder": {
            "flops": findings.ladder.flops,
            "left_out": list(findings.ladder.left_out),
            "unique_tokens": findings.unique_tokens,
        },
        "problem": findings.problem,
        "analysis": None if analysis is None else _finite(analysis.to_dict()),
        "optima": {
            name: [{**dataclasses.asdict(one), "tokens_per_parameter": one.tokens_per_parameter} for one in optima]
            for name, optima in findings.optima().items()
        },
        "forecast": None,
        "forecast_problem": findings.forecast_problem,
    }
    if forecast is not None:
        found["forecast"] = {
            **dataclasses.asdict(forecast),
            "on_record_before_the_run": findings.forecast_before,
            "measured": measured,
            "inside": None if measured is None else forecast.holds(measured),
            "error": None if measured is None else forecast.error(measured),
            "within": findings.recipe.within,
            "held": None if measured is None else held(findings),
        }
    return found


def held(findings: Findings) -> bool:
    """Whether the measured loss lies in the interval, and no further off than the recipe allows."""
    forecast, measured = findings.forecast, findings.measured
    assert forecast is not None
    assert measured is not None
    return forecast.holds(measured) and abs(forecast.error(measured)) <= findings.recipe.within


def _metrics(findings: Findings) -> dict[str, float]:
    analysis, forecast, measured = findings.analysis, findings.forecast, findings.measured
    found = {
        "scaling/runs": float(len(findings.outcomes)),
        "scaling/runs_finished": float(sum(outcome.finished for outcome in findings.outcomes)),
        "scaling/flops": sum(outcome.flops for outcome in findings.outcomes),
        "scaling/seconds": sum(outcome.seconds for outcome in findings.outcomes),
    }
    if analysis is not None:
        for name, fitted in analysis.forecasters.items():
            coefficients = analysis.law(name).coefficients()
            found |= {f"scaling/{name}/{key}": value for key, value in coefficients.items()}
            found[f"scaling/{name}/spread"] = fitted.bootstrap.spread
        for name, power in analysis.powers.items():
            found[f"scaling/kaplan/alpha_{name}"] = power.exponent
        for name, law in analysis.frontiers().items():
            found[f"scaling/{name}/parameters_exponent"] = law.parameters_exponent
            found[f"scaling/{name}/tokens_exponent"] = law.tokens_exponent
    if forecast is not None:
        found |= {f"forecast/{name}": getattr(forecast, name) for name in ("loss", "low", "high", "extrapolation")}
        if measured is not None:
            found |= {
                "held_out/loss": measured,
                "held_out/error": forecast.error(measured),
                "held_out/inside": float(forecast.holds(measured)),
            }
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _tables(findings: Findings) -> dict[str, Any]:
    tables = {"runs": runs_table(findings)}
    if findings.analysis is not None:
        tables["coefficients"] = coefficients_table(findings.analysis)
        if findings.optima():
            tables["optima"] = optima_table(findings)
    return tables


def runs_table(findings: Findings) -> dict[str, Any]:
    """Every run with its numbers, the held-out one last."""
    left_out = dict(findings.analysis.left_out) if findings.analysis is not None else {}
    rows = []
    outcomes = [*findings.outcomes, *([findings.held_out] if findings.held_out is not None else [])]
    for outcome in outcomes:
        name = outcome.trial.name
        why = left_out.get(name) or ("" if outcome.finished else f"{outcome.state}: {outcome.error}")
        rows.append(
            [
                name,
                outcome.parameters,
                outcome.matrix_parameters,
                outcome.tokens,
                round(outcome.tokens / findings.unique_tokens, 2) if findings.unique_tokens else None,
                float(f"{outcome.flops:.4g}"),
                round(outcome.loss, 4) if math.isfinite(outcome.loss) else None,
                round(outcome.seconds, 1),
                why,
            ]
        )
    columns = ["run", "parameters", "in products", "tokens", "epochs", "FLOPs", "loss", "seconds", "left out"]
    return {"columns": columns, "rows": rows}


def coefficients_table(analysis: Analysis) -> dict[str, Any]:
    """The coefficients of all laws with their intervals."""
    rows: list[list[Any]] = []
    for name in analysis.forecasters:
        rows += _rows(_NAMES[name], analysis.law(name).coefficients(), analysis, name)
    for name, law in analysis.frontiers().items():
        if name != "parametric":
            exponents = {"a": law.parameters_exponent, "b": law.tokens_exponent}
            rows += _rows(f"approach {APPROACHES[name]}", exponents, analysis, name)
    for name, power in analysis.powers.items():
        letter = {"parameters": "N", "tokens": "D", "flops": "C"}[name]
        rows.append([f"Kaplan, L({letter})", f"alpha_{letter}", _short(power.exponent), "", ""])
        rows.append([f"Kaplan, L({letter})", f"{letter}_c", _short(power.scale), "", ""])
    return {"columns": ["law", "coefficient", "value", "low", "high"], "rows": rows}


_NAMES = {"parametric": "Chinchilla, L(N, D)", "combined": "Kaplan, L(N, D)"}


def _rows(law: str, values: dict[str, float], analysis: Analysis, name: str) -> list[list[Any]]:
    intervals = analysis.intervals.get(name, {})
    return [
        [law, key, _short(value), *(_short(end) for end in intervals.get(key, (math.nan, math.nan)))]
        for key, value in values.items()
    ]


def optima_table(findings: Findings) -> dict[str, Any]:
    """The best size and tokens for each budget, by approach."""
    rows = [
        [
            APPROACHES[name],
            _short(one.flops),
            _short(one.parameters),
            _short(one.tokens),
            _short(one.tokens_per_parameter),
        ]
        for name, optima in findings.optima().items()
        for one in optima
    ]
    return {"columns": ["approach", "FLOPs", "parameters", "tokens", "tokens a parameter"], "rows": rows}


def _short(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else ""


def _finite(value: Any) -> Any:
    """Values with what is no number as null, as JSON has none."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
