"""The arithmetic of costs, against sums by hand."""

from __future__ import annotations

import math

import pytest
from pydantic import ValidationError

from pipeline.costs import Cost, CostSettings, account, cost_of, journal_facts, total
from pipeline.costs.settings import settings_of
from pipeline.costs.telling import amount, energy, mass, sentence
from pipeline.costs.watts import board_watts


def test_what_nothing_meters_is_estimated_from_times_and_powers() -> None:
    settings = CostSettings(
        price_per_device_hour=2.0, price_per_core_hour=0.5, price_per_kwh=10.0, carbon_grams_per_kwh=100.0, pue=1.5
    )
    facts = {"seconds": 1800, "cpu_seconds": 7200, "peak_memory_bytes": 4e9, "device": "cpu", "processes": 1}
    found = account(facts, settings)
    # 2 core hours at 12 W, and half an hour of 4 GB at 0.3725 W each; half as much again for the building.
    kilowatt_hours = 1.5 * (2 * 12 + 0.5 * 4 * 0.3725) / 1000
    assert found.kilowatt_hours == pytest.approx(kilowatt_hours)
    assert cost_of(facts, settings) == pytest.approx(
        {
            "kilowatt_hours": kilowatt_hours,
            "carbon_grams": 100 * kilowatt_hours,
            "money": 0.5 * 2.0 + 2 * 0.5 + kilowatt_hours * 10,
            "device_hours": 0.5,
        }
    )
    assert "12 W a core" in found.basis


def test_a_gpu_is_its_time_times_its_board_power_or_what_its_meter_says() -> None:
    facts = {"seconds": 3600, "device": "cuda:0", "device_name": "NVIDIA H100 80GB HBM3", "processes": 4}
    assert account(facts, CostSettings()).kilowatt_hours == pytest.approx(4 * 0.7)
    assert account(facts, CostSettings(device_watts=100)).kilowatt_hours == pytest.approx(0.4)
    metered = account({**facts, "gpu_joules": 3.6e6, "gpu_meter": "NVML"}, CostSettings())
    assert metered.kilowatt_hours == pytest.approx(1.0)
    assert metered.basis == "GPU: metered (NVML)"
    unknown = account({**facts, "device_name": "Abacus 9"}, CostSettings())
    assert unknown.kilowatt_hours == 0
    assert "left out, the power of Abacus 9 is not known" in unknown.basis


def test_the_memory_of_a_gpu_is_not_the_machines() -> None:
    facts = {"seconds": 3600, "device": "cuda:0", "device_name": "L4", "peak_memory_bytes": 20e9}
    assert account(facts, CostSettings()).kilowatt_hours == pytest.approx(0.072)
    host = account({**facts, "host_memory_bytes": 10e9}, CostSettings())
    assert host.kilowatt_hours == pytest.approx(0.072 + 0.003725)
    assert host.peak_memory_bytes == 10_000_000_000


def test_meters_go_before_estimates() -> None:
    facts = {"seconds": 10, "cpu_seconds": 10**6, "peak_memory_bytes": 10**15, "cpu_joules": 3.6e6, "memory_joules": 0}
    found = account({**facts, "cpu_meter": "RAPL, whole packages"}, CostSettings())
    assert found.kilowatt_hours == pytest.approx(1.0)
    assert "12 W" not in found.basis


def test_without_processor_time_all_threads_were_busy() -> None:
    found = account({"seconds": 3600, "threads": 3, "processes": 2, "device": "cpu"}, CostSettings())
    assert found.core_hours == 6


def test_nothing_known_costs_nothing_and_no_price_no_money() -> None:
    assert account({}, CostSettings(price_per_device_hour=9)) == Cost()
    assert cost_of({"seconds": 3600, "device": "cpu"}, CostSettings())["money"] == 0


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, "3", True])
def test_facts_that_are_no_amounts_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match="cpu_seconds"):
        account({"cpu_seconds": value}, CostSettings())


@pytest.mark.parametrize(("field", "value"), [("pue", 0.9), ("price_per_kwh", -1), ("device_watts", math.inf)])
def test_settings_that_cannot_be_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValidationError, match=field):
        CostSettings.model_validate({field: value})


def test_a_training_that_ended_early_costs_what_its_journal_says() -> None:
    line = {"step": 5, "time": 1800.0, "metrics": {"train/loss": 2.0, "train/cpu_seconds": 3600.0}}
    found = account(journal_facts(line, {"device": "cpu", "processes": 1, "threads": 9}), CostSettings())
    assert (found.core_hours, found.device_hours) == (1.0, 0.5)
    line = {"step": 5, "time": 1800.0, "metrics": {"train/gpu_joules": 7.2e6}}
    found = account(journal_facts(line, {"device": "cuda:0", "processes": 2, "threads": 0}), CostSettings())
    assert (found.kilowatt_hours, found.device_hours) == (2.0, 1.0)
    assert account(journal_facts({}), CostSettings()).kilowatt_hours == 0


def test_costs_add_up() -> None:
    first = account({"seconds": 10, "cpu_seconds": 10, "peak_memory_bytes": 5}, CostSettings())
    second = account({"seconds": 20, "cpu_joules": 7, "peak_memory_bytes": 3}, CostSettings())
    whole = total([first, second])
    assert whole.seconds == 30
    assert whole.peak_memory_bytes == 5
    assert whole.kilowatt_hours == pytest.approx(first.kilowatt_hours + second.kilowatt_hours)
    assert whole.basis.count("memory: its peak") == 1
    assert total([]) == Cost()


@pytest.mark.parametrize(
    ("name", "watts"),
    [
        ("NVIDIA H200", 700),
        ("NVIDIA H100 80GB HBM3", 700),
        ("NVIDIA H100 PCIe", 350),
        ("NVIDIA A100-SXM4-80GB", 400),
        ("NVIDIA A100 80GB PCIe", 300),
        ("NVIDIA L4", 72),
        ("l40s", 350),
        ("AMD EPYC", None),
    ],
)
def test_board_powers_by_the_names_that_torch_gives(name: str, watts: float | None) -> None:
    assert board_watts(name) == watts


def test_the_price_of_a_training_counts_where_the_costs_say_none() -> None:
    recipe = {"train": {"training": {"price_per_device_hour": 3.0}}, "costs": {"currency": "EUR"}}
    assert settings_of(recipe).price_per_device_hour == 3.0
    assert settings_of({}) == CostSettings()


def test_amounts_as_people_read_them() -> None:
    euros = CostSettings(currency="EUR", price_per_kwh=1)
    assert (energy(0.00052), energy(1.3), energy(2100)) == ("0.52 Wh", "1.3 kWh", "2.1 MWh")
    assert (mass(0.25), mass(1200), mass(3.4e6)) == ("0.25 g", "1.2 kg", "3.4 t")
    assert (amount(12.3, euros), amount(0.00123, CostSettings())) == ("12.30 EUR", "0.0012")
    cost = Cost(kilowatt_hours=1.0, carbon_grams=481.0, money=1.0)
    assert sentence(cost, euros) == "1 kWh, 481 g CO2e, 1.00 EUR"
    assert sentence(cost, CostSettings()) == "1 kWh, 481 g CO2e"
