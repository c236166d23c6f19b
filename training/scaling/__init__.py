"""Scaling laws: from finished runs to the loss, size and tokens of those that were not trained."""

from training.scaling.analysis import Analysis, analyse
from training.scaling.bootstrap import Bootstrap, bootstrap
from training.scaling.envelope import Envelope, fit_envelope
from training.scaling.forecast import Backtest, Forecast, Forecaster, forecaster
from training.scaling.isoflop import IsoFlop, Valley, fit_isoflop, valleys
from training.scaling.kaplan import Combined, fit_combined, fit_power
from training.scaling.laws import Frontier, Law, Optimum, Power, fit_frontier
from training.scaling.parametric import Parametric, check_design, fit_parametric
from training.scaling.runs import Run, ScalingError, usable

__all__ = [
    "Analysis",
    "Backtest",
    "Bootstrap",
    "Combined",
    "Envelope",
    "Forecast",
    "Forecaster",
    "Frontier",
    "IsoFlop",
    "Law",
    "Optimum",
    "Parametric",
    "Power",
    "Run",
    "ScalingError",
    "Valley",
    "analyse",
    "bootstrap",
    "check_design",
    "fit_combined",
    "fit_envelope",
    "fit_frontier",
    "fit_isoflop",
    "fit_parametric",
    "fit_power",
    "forecaster",
    "usable",
    "valleys",
]
