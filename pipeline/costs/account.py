"""What a piece of work cost: device hours, energy, carbon and money, from what was measured of it.

Where a meter ran its joules count. Where none did, the processor is its time under load times a power for a core, the
memory its peak times a power for a gigabyte, and a GPU its time times the power that it is built for; `basis` says
which. So an estimate of a GPU is an upper bound, and one of a processor leaves out what an idle machine draws.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.costs.settings import CostSettings
from pipeline.costs.watts import board_watts

JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True)
class Cost:
    """What some work came to. Energy holds the building's share (PUE); money is 0 where nothing has a price."""

    seconds: float = 0.0
    device_hours: float = 0.0
    core_hours: float = 0.0
    peak_memory_bytes: int = 0
    kilowatt_hours: float = 0.0
    carbon_grams: float = 0.0
    money: float = 0.0
    basis: str = ""
    """How the energy was found, part by part."""

    def __add__(self, other: Cost) -> Cost:
        """Both together: sums, the larger peak, and all that the energies rest on."""
        told = dict.fromkeys(part for part in (*self.basis.split("; "), *other.basis.split("; ")) if part)
        return Cost(
            self.seconds + other.seconds,
            self.device_hours + other.device_hours,
            self.core_hours + other.core_hours,
            max(self.peak_memory_bytes, other.peak_memory_bytes),
            self.kilowatt_hours + other.kilowatt_hours,
            self.carbon_grams + other.carbon_grams,
            self.money + other.money,
            "; ".join(told),
        )

    @property
    def figures(self) -> dict[str, float]:
        """What is compared, summed and sent: kilowatt_hours, carbon_grams, money, device_hours."""
        return {
            "kilowatt_hours": self.kilowatt_hours,
            "carbon_grams": self.carbon_grams,
            "money": self.money,
            "device_hours": self.device_hours,
        }


def account(facts: Mapping[str, Any], settings: CostSettings) -> Cost:
    """What work with these facts cost. Each may be missing, and then counts as nothing.

    `seconds` of wall time. `cpu_seconds` of processor time over all processes; without them `threads` are taken to have
    been busy all the time. `host_memory_bytes`, the peak of the machine's memory, or `peak_memory_bytes` where no GPU
    trained. `device` that trained (`cpu`, `cuda:0`), `device_name`, and `processes`, one a GPU; `device_hours` where
    they are not the product of these. `cpu_joules`, `memory_joules` and `gpu_joules` where a meter ran, with
    `cpu_meter` and `gpu_meter`, the meters' names.

    Raises ValueError for a fact that is no number or below zero, naming it.
    """
    seconds = _number(facts, "seconds")
    device, processes = str(facts.get("device") or ""), max(1, int(_number(facts, "processes")))
    device_hours = devices(facts) * seconds / 3600 if device else 0.0
    if facts.get("device_hours") is not None:
        device_hours = _number(facts, "device_hours")
    known = facts.get("cpu_seconds") is not None
    cpu_seconds = _number(facts, "cpu_seconds") if known else processes * _number(facts, "threads") * seconds
    on_gpu = device.startswith("cuda")
    memory = _number(facts, "host_memory_bytes") or (0.0 if on_gpu else _number(facts, "peak_memory_bytes"))
    parts = [_processor(facts, settings, cpu_seconds), _memory(facts, settings, memory, seconds)]
    if on_gpu:
        parts.append(_gpu(facts, settings, device_hours))
    kilowatt_hours = settings.pue * sum(joules for joules, _ in parts) / JOULES_PER_KWH
    core_hours = cpu_seconds / 3600
    money = (
        device_hours * (settings.price_per_device_hour or 0.0)
        + core_hours * (settings.price_per_core_hour or 0.0)
        + kilowatt_hours * (settings.price_per_kwh or 0.0)
    )
    return Cost(
        seconds,
        device_hours,
        core_hours,
        int(memory),
        kilowatt_hours,
        kilowatt_hours * settings.carbon_grams_per_kwh,
        money,
        "; ".join(told for _, told in parts if told),
    )


def devices(facts: Mapping[str, Any]) -> int:
    """How many devices these facts tell of: a GPU for each process, else the CPU as a whole, whoever shares it."""
    on_gpu = str(facts.get("device") or "").startswith("cuda")
    return max(1, int(_number(facts, "processes"))) if on_gpu else 1


def cost_of(facts: Mapping[str, Any], settings: CostSettings) -> dict[str, float]:
    """kilowatt_hours, carbon_grams, money and device_hours of a piece of work, from what `account` takes.

    The content of a training's result.json is such facts. Raises ValueError as `account` does.
    """
    return account(facts, settings).figures


def total(costs: Iterable[Cost]) -> Cost:
    """The sum of costs."""
    result = Cost()
    for cost in costs:
        result = result + cost
    return result


def _processor(facts: Mapping[str, Any], settings: CostSettings, cpu_seconds: float) -> tuple[float, str]:
    if facts.get("cpu_joules") is not None:
        return _number(facts, "cpu_joules"), f"processor: metered ({facts.get('cpu_meter') or 'RAPL'})"
    watts = settings.watts_per_core
    return cpu_seconds * watts, f"processor: its time at {watts:g} W a core" if cpu_seconds else ""


def _memory(facts: Mapping[str, Any], settings: CostSettings, size: float, seconds: float) -> tuple[float, str]:
    if facts.get("memory_joules") is not None:
        return _number(facts, "memory_joules"), f"memory: metered ({facts.get('cpu_meter') or 'RAPL'})"
    watts = settings.watts_per_gigabyte
    return size / 1e9 * watts * seconds, f"memory: its peak at {watts:g} W a gigabyte" if size else ""


def _gpu(facts: Mapping[str, Any], settings: CostSettings, device_hours: float) -> tuple[float, str]:
    if facts.get("gpu_joules") is not None:
        return _number(facts, "gpu_joules"), f"GPU: metered ({facts.get('gpu_meter') or 'NVML'})"
    name = str(facts.get("device_name") or "")
    watts = settings.device_watts if settings.device_watts is not None else board_watts(name)
    if watts is None:
        return 0.0, f"GPU: left out, the power of {name or 'the device'} is not known (set costs.device_watts)"
    return device_hours * 3600 * watts, f"GPU: its time at {watts:g} W"


def _number(facts: Mapping[str, Any], name: str) -> float:
    value = facts.get(name)
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ValueError(f"{name}: a cost needs a finite number that is not below zero, got {value!r}")
    return float(value)
