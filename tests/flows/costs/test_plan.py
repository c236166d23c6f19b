"""Prices in a recipe, and what `headrace plan` makes of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.costs.planned import planned_facts
from flows.costs.training import training_cost
from flows.plan import make_plan
from flows.planning import plan_costs, plan_recipe
from flows.recipe import RecipeError, load_recipe
from pipeline.store import Store
from tests.pipeline.costs.store import commit, trained, training

CORPUS = {"name": "priced", "ingest": {"sources": [{"name": "a", "format": "jsonl", "path": "a.jsonl"}]}}
SMALL = ["train.model={preset: gpt2, layers: 2, heads: 2, width: 64, context_length: 64}", "train.optimizer.name=adamw"]


def test_no_cost_setting_reaches_a_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_text('{"text": "a"}\n')
    plain = make_plan(CORPUS, str(tmp_path))
    prices = ["costs.price_per_device_hour=2", "costs.price_per_kwh=0.3", "costs.pue=1.5", "costs.currency=EUR"]
    priced = make_plan(CORPUS, str(tmp_path), prices)
    assert {name: ref.fingerprint for name, ref in priced.refs.items()} == {
        name: ref.fingerprint for name, ref in plain.refs.items()
    }
    # The training process hears of the price that its running cost needs.
    assert priced.stages["train"].config.training.price_per_device_hour == 2
    assert plain.stages["train"].config.training.price_per_device_hour is None


def test_a_record_of_other_prices_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_text('{"text": "a"}\n')
    plain, priced = (make_plan(CORPUS, "w", given) for given in ([], ["train.training.price_per_device_hour=2"]))
    assert plain.record_path == priced.record_path
    assert not plain.is_recorded_at_its_prices()
    plain.write_record(state="finished")
    assert plain.is_recorded_at_its_prices()
    assert not priced.is_recorded_at_its_prices()


def test_the_price_of_a_device_has_one_place() -> None:
    both = ["costs.price_per_device_hour=2", "train.training.price_per_device_hour=3"]
    with pytest.raises(RecipeError, match=r"costs\.price_per_device_hour is 2 and train.* 3: give one"):
        load_recipe(CORPUS, both)
    assert load_recipe(CORPUS, both[1:]).prices.price_per_device_hour == 3


@pytest.mark.parametrize(("setting", "told"), [("costs.pue=0.5", "costs.pue"), ("costs.prize=1", "unknown key")])
def test_a_wrong_setting_is_named(setting: str, told: str) -> None:
    result = CliRunner().invoke(app, ["plan", "quickstart", "--set", setting])
    assert result.exit_code == 2
    assert told in result.output


def test_a_plan_tells_energy_carbon_and_money() -> None:
    settings = ["costs.price_per_kwh=10", "costs.price_per_core_hour=0.5", "costs.pue=1.2", "costs.currency=EUR"]
    arguments = ["plan", "quickstart", "--device", "h100", "--price", "2.5", "--json"]
    for setting in (*SMALL, *settings, "train.training.steps=1000000", "train.training.compile=off"):
        arguments += ["--set", setting]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    planned = json.loads(result.output)
    costs, hours = planned["costs"], planned["hours"]
    assert costs["device_hours"] == pytest.approx(hours)
    assert costs["kilowatt_hours"] == pytest.approx(1.2 * hours * (700 + 12) / 1000)
    assert costs["carbon_grams"] == pytest.approx(481 * costs["kilowatt_hours"])
    assert costs["money"] == pytest.approx(hours * (2.5 + 0.5) + 10 * costs["kilowatt_hours"])
    assert planned["stages"] == []


def test_a_training_costs_what_its_result_or_its_journal_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_text('{"text": "a"}\n')
    plan = make_plan(CORPUS, "w", ["costs.price_per_device_hour=2", "costs.watts_per_core=100"])
    ref = plan.refs["train"]
    assert training_cost(plan) == {}
    Path(ref.path, "work").mkdir(parents=True)
    line = {"step": 5, "tokens": 9, "time": 1800.0, "metrics": {"train/cpu_seconds": 3600.0}}
    Path(ref.path, "work", "metrics.jsonl").write_text(json.dumps(line) + '\n{"step": 6, "ti')
    found = training_cost(plan)
    assert (found["kilowatt_hours"], found["money"], found["device_hours"]) == (0.1, 1.0, 0.5)
    result = {"device": "cpu", "seconds": 3600.0, "processes": 1, "cpu_seconds": 7200.0}
    commit(plan.store, "train", ref.fingerprint, summary=result)
    assert training_cost(plan)["kilowatt_hours"] == 0.2


def test_nothing_is_said_where_nothing_tells_how_long_it_takes() -> None:
    planned = plan_recipe("quickstart", SMALL, "cpu")
    assert planned_facts(planned, on_gpu=False) is None
    assert plan_costs("quickstart", SMALL, planned, None, None, measured=False).cost is None


def test_a_workspace_tells_of_its_missing_stages_and_keeps_the_forecast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_text('{"text": "a"}\n')
    Path("r.yaml").write_text(json.dumps(CORPUS))
    store = Store.at(tmp_path / "w" / "store")
    config = {"sources": [{"files": [{"bytes": 7}]}]}
    commit(store, "ingest", "other", config=config)
    trained(store, "other", training(10), {"device": "cpu", "seconds": 1.0, "processes": 1})
    arguments = ["plan", "r.yaml", "--measure", "-w", "w"]
    for setting in (*SMALL, "train.training.device=cpu", "train.training.threads=1", "costs.price_per_device_hour=7"):
        arguments += ["--set", setting]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    planned = json.loads(result.output)
    stages = {stage["stage"]: stage for stage in planned["stages"]}
    assert stages["ingest"]["seconds"] == pytest.approx(10 * 14 / 7)
    assert stages["ingest"]["basis"] == "2 times the work of ingest other on this machine"
    assert "seconds" not in stages["filter"]
    assert stages["train"]["basis"] == "headrace plan, measured"
    assert stages["train"]["device_hours"] == pytest.approx(planned["hours"]) == planned["costs"]["device_hours"]
    assert stages["train"]["money"] == pytest.approx(7 * planned["hours"])
    plan = make_plan("r.yaml", "w", [*SMALL, "train.training.device=cpu"])
    kept = json.loads(Path(plan.refs["train"].path, "forecast.json").read_text())
    assert kept["facts"]["seconds"] == pytest.approx(3600 * planned["hours"])
    # What was only reckoned gives way to what was seen, at the price that was asked for, and is not kept.
    Path(plan.refs["train"].path, "forecast.json").unlink()
    commit(store, "tokenize", plan.refs["tokenize"].fingerprint, summary={"tokenizer": {"vocabulary_size": 100}})
    reckoned = [one for one in arguments if one != "--measure"]
    told = CliRunner().invoke(app, [*reckoned, "--mfu", "0.9", "--price", "3600", "--json"])
    (train,) = [stage for stage in json.loads(told.output)["stages"] if stage["stage"] == "train"]
    assert "the work of train other" in train["basis"]
    assert train["money"] == pytest.approx(3600 * train["device_hours"])
    assert not Path(plan.refs["train"].path, "forecast.json").exists()
    shown = CliRunner().invoke(app, arguments, env={"COLUMNS": "160"})
    assert "Stages still to be done" in shown.output
    assert "without" in shown.output
