"""What stages are expected to use: noted beside a stage before it runs, and told by `headrace plan`."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import fsspec

from pipeline.costs.forecast import Forecast, foresee, source_bytes
from pipeline.costs.stages import FORECAST
from pipeline.stage import Stage
from pipeline.store import StageRef, Store, write_json


def forecast_of(
    store: Store, stage: Stage[Any], ref: StageRef, ingest: Mapping[str, Any] | None = None
) -> Forecast | None:
    """What a stage will use, by the most similar run of it in the store; None where there is none.

    Where its inputs are not committed, `ingest`, the identity of the run's first stage, tells how much there is to do.
    """
    inputs = {name: parent.fingerprint for name, parent in stage.inputs.items()}
    sources = source_bytes(ingest) if ingest is not None else 0.0
    return foresee(store, stage.name, ref.fingerprint, stage.identity(), inputs, sources)


def remember_forecast(store: Store, stage: Stage[Any], ref: StageRef) -> None:
    """Note a stage's forecast beside where its manifest will lie, unless one lies there; a guess stops no run."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        filesystem, path = fsspec.core.url_to_fs(f"{ref.path}/{FORECAST}")
        if filesystem.exists(path):
            return
        forecast = forecast_of(store, stage, ref)
        if forecast is not None:
            write_forecast(ref, forecast)


def write_forecast(ref: StageRef, forecast: Forecast) -> None:
    """Note a forecast beside a stage. Raises OSError where the store cannot be written."""
    write_json(f"{ref.path}/{FORECAST}", {"facts": forecast.facts, "basis": forecast.basis})
