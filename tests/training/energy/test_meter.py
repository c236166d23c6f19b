"""The meters over a tree like Linux's powercap, and on a machine without any."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from training.energy import Meter, nvml
from training.energy import meter as meter_module
from training.energy.meter import names
from training.energy.powercap import Powercap

LIMIT = 262_143_328_850


def zone(root: Path, folder: str, name: str, microjoules: int | str, limit: int = LIMIT) -> Path:
    """A zone of the tree; returns its counter."""
    path = root / folder
    path.mkdir(parents=True)
    (path / "name").write_text(f"{name}\n")
    (path / "max_energy_range_uj").write_text(f"{limit}\n")
    (path / "energy_uj").write_text(f"{microjoules}\n")
    return path / "energy_uj"


def test_packages_are_summed_and_their_memory_stands_apart(tmp_path: Path) -> None:
    first = zone(tmp_path, "intel-rapl:0", "package-0", 5_000_000)
    second = zone(tmp_path, "intel-rapl:1", "package-1-die-0", 0)
    memory = zone(tmp_path, "intel-rapl:0:1", "dram", 100)
    others = (("intel-rapl:0:0", "core"), ("intel-rapl:2", "psys"), ("intel-rapl-mmio:0", "package-0"))
    counted_elsewhere = [zone(tmp_path, folder, name, 1) for folder, name in others]
    found = Powercap(tmp_path)
    for counter in counted_elsewhere:
        counter.write_text("9000000")
    first.write_text("7500000")
    second.write_text("1000000")
    memory.write_text("250100")
    found.read()
    assert found.joules == pytest.approx({"cpu_joules": 3.5, "memory_joules": 0.25})


def test_a_counter_that_began_anew_goes_on(tmp_path: Path) -> None:
    counter = zone(tmp_path, "intel-rapl:0", "package-0", LIMIT - 2_000_000)
    with Meter(root=tmp_path) as meter:
        counter.write_text("1000000")
        assert meter.read() == pytest.approx({"cpu_joules": 3.0})
        counter.write_text("1500000")
        assert meter.read() == pytest.approx({"cpu_joules": 3.5})


def test_counters_are_watched_while_nobody_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter_module, "PERIOD_SECONDS", 0.01)
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 0, limit=1000)
    with Meter(root=tmp_path) as meter:
        assert meter._powercap is not None
        counter.write_text("900")
        for _ in range(500):
            if meter._powercap.joules["cpu_joules"]:
                break
            meter._done.wait(0.01)
        counter.write_text("100")  # a round later: only who read in between knows
        assert meter.read() == pytest.approx({"cpu_joules": 1100e-6})


def test_what_cannot_be_read_is_not_metered(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", "no number")
    (tmp_path / "intel-rapl:1").mkdir()
    for root in (tmp_path, tmp_path / "missing"):
        with Meter(root=root) as meter:
            assert meter.read() == {}


def test_a_counter_that_goes_away_ends_the_metering_and_not_the_run(tmp_path: Path) -> None:
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 0)
    with Meter(root=tmp_path) as meter:
        counter.unlink()
        assert meter.read() == {}
        counter.write_text("5")
        assert meter.read() == {}


def test_processors_are_left_out_where_another_process_counts_them(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 0)
    with Meter(root=tmp_path, processors=False) as meter:
        assert meter.read() == {}


def test_without_a_driver_or_its_library_no_gpu_is_metered(monkeypatch: pytest.MonkeyPatch) -> None:
    assert nvml.energy_reader([]) is None
    # Nothing has this UUID, with a driver or without one.
    assert nvml.energy_reader(["00000000-0000-0000-0000-000000000000"]) is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvml.energy_reader(["GPU-00000000-0000-0000-0000-000000000000"]) is None


def test_a_gpus_counter_counts_from_the_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([1000.0, 1250.5])
    monkeypatch.setattr(nvml, "energy_reader", lambda uuids: lambda: next(readings))
    with Meter(["any"], root=tmp_path) as meter:
        joules = meter.read()
        assert joules == {"gpu_joules": 250.5}
        assert names(joules) == {"gpu_meter": "NVML"}
        assert meter.read() == {}  # the counter has gone
