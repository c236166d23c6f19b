"""What stages used, what was forecast of them, and where both are shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import pytest

from pipeline.catalog.costs import costs_sql
from pipeline.costs import CostSettings
from pipeline.costs.forecast import foresee
from pipeline.costs.stages import FORECAST, stage_costs
from pipeline.report.costs import costs_table
from pipeline.report.facts import CorpusFacts, Facts, ModelFacts, StageFacts
from pipeline.store import StageRef, Store
from tests.pipeline.costs.store import commit, sources, trained, training

ON_GPU = {"device": "cuda:0", "device_name": "NVIDIA H100 80GB HBM3", "processes": 2, "seconds": 3600.0}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.at(tmp_path / "store")


def facts_of(recipe: dict[str, Any], refs: dict[str, StageRef]) -> Facts:
    """The facts of a report on stages alone."""
    stages = {name: StageFacts(ref, ref.committed()) for name, ref in refs.items()}
    return Facts("x", recipe, stages, CorpusFacts(), ModelFacts(), {})


def test_a_stage_is_its_record_and_a_training_its_own_word_on_devices(store: Store) -> None:
    stages = {
        "filter": commit(store, "filter", "f", execution={"cpu_joules": 360.0, "memory_joules": 0.0}),
        "train": trained(store, "t", training(5), {**ON_GPU, "gpu_joules": 7.2e6, "cpu_seconds": 4000.0}),
        "evaluate": commit(store, "evaluate", "e", {"train": "t"}, execution={"wall_seconds": 36.0}),
        "absent": store.ref("absent", "a"),
    }
    filtered, train, evaluate = stage_costs(stages, CostSettings(price_per_device_hour=2.0))
    assert filtered.cost.kilowatt_hours == pytest.approx(360 / 3.6e6)
    assert filtered.cost.device_hours == 0
    assert train.cost.device_hours == 2.0
    assert train.cost.seconds == 3600  # of all its processes one after another, where the record knows the last
    assert train.cost.money == 4.0
    assert train.cost.kilowatt_hours == pytest.approx(2.0 + (4000 * 12 + 2 * 0.3725 * 3600) / 3.6e6)
    assert evaluate.cost.device_hours == pytest.approx(0.01)
    assert "GPU: its time at 700 W" in evaluate.cost.basis
    assert train.forecast is None
    assert train.ratio is None


def test_a_stage_without_a_record_or_with_a_broken_one_is_left_out(store: Store) -> None:
    gone, broken = commit(store, "filter", "f"), commit(store, "ingest", "i")
    Path(gone.path, "execution.json").unlink()
    Path(broken.path, "execution.json").write_text("{")
    backwards = commit(store, "privacy", "p", execution={"wall_seconds": -0.3})  # of a clock that was set back
    assert stage_costs({"filter": gone, "ingest": broken, "privacy": backwards}, CostSettings()) == []


def test_what_was_done_in_parts_is_counted_whole_or_not_compared(store: Store) -> None:
    expected = json.dumps({"facts": {"seconds": 100.0}, "basis": "x"})
    part = {"wall_seconds": 10.0, "units_of_earlier_runs": 7}
    ingest = commit(store, "ingest", "i", execution=part)
    result = {"device": "cpu", "seconds": 200.0, "cpu_joules": 4000.0, "cpu_meter": "RAPL", "processes": 4}
    # The meter of the record saw the last ten seconds of the training, its own all of them.
    resumed = trained(store, "t", training(5), result, execution={**part, "cpu_joules": 30.0})
    for ref in (ingest, resumed):
        Path(ref.path, FORECAST).write_text(expected)
    first, second = stage_costs({"ingest": ingest, "train": resumed}, CostSettings(watts_per_gigabyte=0))
    assert first.ratio is None
    assert second.ratio == 2.0
    assert second.cost.kilowatt_hours == pytest.approx(4000 / 3.6e6)
    assert second.cost.device_hours == pytest.approx(200 / 3600)  # one machine, whatever shares it
    unmetered = trained(store, "u", training(5), {"device": "cpu", "seconds": 200.0}, execution={"cpu_joules": 30.0})
    (cost,) = stage_costs({"train": unmetered}, CostSettings())
    assert "processor: its time" in cost.cost.basis
    whole = trained(store, "w", training(5), {**result, "seconds": 9.0}, execution={"cpu_joules": 90.0})
    (cost,) = stage_costs({"train": whole}, CostSettings(watts_per_gigabyte=0))
    assert cost.cost.kilowatt_hours == pytest.approx(90 / 3.6e6)


def test_a_forecast_scales_the_most_similar_run(store: Store) -> None:
    commit(store, "ingest", "small", config=sources(1000), size=900)
    commit(store, "ingest", "large", config=sources(100_000), size=90_000, execution={"cpu_seconds": 1000.0})
    forecast = foresee(store, "ingest", "new", sources(2000), {})
    assert forecast is not None
    assert forecast.facts["seconds"] == 20.0
    assert forecast.facts["cpu_seconds"] == 36.0
    assert forecast.facts["host_memory_bytes"] == 2_000_000_000
    assert forecast.basis == "2 times the work of ingest small on this machine"
    # Its own earlier output is no comparison, nor is the record of a part of the work.
    commit(store, "filter", "own", {"ingest": "small"})
    commit(store, "filter", "part", {"ingest": "small"}, execution={"units_of_earlier_runs": 1})
    assert foresee(store, "filter", "own", {}, {"ingest": "large"}) is None


def test_a_stage_whose_inputs_are_missing_is_compared_by_the_sources(store: Store) -> None:
    commit(store, "ingest", "i", config=sources(1000), size=10)
    commit(store, "filter", "f", {"ingest": "i"}, size=5)
    commit(store, "tokenize", "t", {"filter": "f"})
    by_input = foresee(store, "tokenize", "new", {}, {"filter": "f"})
    assert by_input is not None
    assert by_input.facts["seconds"] == 10.0
    by_sources = foresee(store, "tokenize", "new", {}, {"filter": "not yet"}, sources=3000)
    assert by_sources is not None
    assert by_sources.facts["seconds"] == 30.0
    assert foresee(store, "tokenize", "new", {}, {"filter": "not yet"}) is None
    # By some of its inputs alone, such as the tokenizer of another run, there would seem to be little to do.
    commit(store, "tokenizer", "small", size=1)
    assert foresee(store, "tokenize", "new", {}, {"filter": "not yet", "tokenizer": "small"}) is None


def test_a_training_is_compared_by_tokens_and_weights(store: Store) -> None:
    trained(store, "here", training(100), {"device": "cpu", "seconds": 50.0, "processes": 1})
    trained(store, "masked", training(200, objective="masked"), {"device": "cpu", "seconds": 1.0})
    trained(store, "far", training(200), {"device": "cpu", "seconds": 2.0}, execution={"host": "elsewhere"})
    forecast = foresee(store, "train", "new", training(200), {"tokenize": "tokens"})
    assert forecast is not None
    assert forecast.facts["seconds"] == 100.0
    assert forecast.facts["device_hours"] == pytest.approx(100 / 3600)
    wider = foresee(store, "train", "new", training(100, width=16), {"tokenize": "tokens"})
    assert wider is not None
    expected = 50 * (12 * 2 * 256 + 100 * 16) / (12 * 2 * 64 + 100 * 8)
    assert wider.facts["seconds"] == pytest.approx(expected)
    blind = foresee(store, "train", "new", training(100, width=16), {"tokenize": "not yet"})
    assert blind is not None
    assert blind.facts["seconds"] == pytest.approx(50 * 4)


def test_forecasts_stand_beside_what_happened(store: Store, tmp_path: Path) -> None:
    ingest = commit(store, "ingest", "i", config=sources(10), execution={"wall_seconds": 30.0})
    forecast = {"facts": {"seconds": 20.0, "cpu_seconds": 9.0}, "basis": "2 times the work of <b>"}
    Path(ingest.path, FORECAST).write_text(json.dumps(forecast))
    # What the training process planned on its GPU counts where nothing else was said.
    train = trained(store, "t", training(5), {**ON_GPU, "planned_seconds": 1800.0})
    refs = {"ingest": ingest, "train": train}
    settings = CostSettings(price_per_kwh=0.3, currency="EUR")
    first, second = stage_costs(refs, settings)
    assert first.ratio == 1.5
    assert second.ratio == 2.0
    assert second.forecast is not None
    assert second.forecast.device_hours == 1.0
    rows = duckdb.sql(costs_sql(refs, settings)).fetchall()
    columns = duckdb.sql(costs_sql(refs, settings)).columns
    shown = [dict(zip(columns, row, strict=True)) for row in rows]
    assert [(row["stage"], row["ratio"], row["currency"]) for row in shown] == [
        ("ingest", 1.5, "EUR"),
        ("train", 2.0, "EUR"),
    ]
    assert shown[0]["forecast_basis"] == forecast["basis"]
    assert shown[1]["device_hours"] == 2.0
    assert duckdb.sql(costs_sql({}, settings)).fetchall() == []
    section = str(costs_table(facts_of({"costs": settings.model_dump()}, refs)))
    assert "1.50" in section
    assert "&lt;b&gt;" in section
    assert "2 of 2 stages had a forecast" in section
    assert "0.3 EUR a kilowatt-hour" in section


def test_without_prices_and_forecasts_their_columns_go(store: Store) -> None:
    section = str(costs_table(facts_of({}, {"ingest": commit(store, "ingest", "i", config=sources(10))})))
    assert "Energy and money" in section
    assert "Expected" not in section
    assert "Money</span>" not in section
    assert "481 g a kilowatt-hour" in section
