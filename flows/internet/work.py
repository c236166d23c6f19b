"""Work as the simulation takes it: stages of units, each with what it asks of storage and processor."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class UnitWork:
    """One unit: it asks for its input, computes, and writes its output, in this order."""

    core_seconds: float
    cores: float = 1.0
    """How many cores it keeps busy while it computes."""
    requests: float = 0.0
    read_bytes: float = 0.0
    write_bytes: float = 0.0
    connections: float = 1.0
    """How many connections to the storage it has at once."""
    wait_seconds: float = 0.0
    """Time in which it uses nothing that is modelled, such as a disk that is waited for."""


@dataclass(frozen=True)
class StageWork:
    """A stage: its units may run side by side, and the next stage waits for all of them."""

    name: str
    units: tuple[UnitWork, ...]
    driver_seconds: float = 0.0
    """Time of the process that plans and commits the stage, while no unit runs."""
    warm_seconds: float = 0.0
    """Core seconds that a worker's first unit of the stage takes more than its others."""
    memory_bytes: float = 0.0
    """Of one worker, at most."""
    unit_count: int = 0
    """Units that there really are, where some were put together for the simulation. 0: as many as `units`."""

    @property
    def count(self) -> int:
        """Units that there really are."""
        return self.unit_count or len(self.units)

    def total(self, name: str) -> float:
        """Sum of a field of the units."""
        return float(sum(getattr(unit, name) for unit in self.units))

    @property
    def parallel_cores(self) -> float:
        """Cores that the stage can keep busy, were there any number of workers."""
        if not self.units:
            return 1.0
        each = self.total("core_seconds") / max(1e-12, sum(unit.core_seconds / unit.cores for unit in self.units))
        return self.count * each if self.total("core_seconds") else float(self.count)


@dataclass(frozen=True)
class Cluster:
    """What the units run on; rates are in bytes, requests and seconds."""

    machines: int
    cores: int
    workers: int
    """Worker processes of a machine, each with one unit at a time."""
    core_speed: float = 1.0
    """Of a core, as a multiple of that on which the rates were measured."""
    busy_efficiency: float = 1.0
    """Speed of a core while all cores of its machine are busy, over that of a core alone."""
    read_bytes_per_second: float = float("inf")
    write_bytes_per_second: float = float("inf")
    requests_per_second: float = float("inf")
    machine_bytes_per_second: float = float("inf")
    connection_bytes_per_second: float = float("inf")
    """Of one connection to the storage."""
    start_seconds: float = 0.0
    """Core seconds that a worker takes to start."""
    failure_hours: float = float("inf")
    """Mean time between failures of a machine, an exponential distribution; all its units are lost."""
    restart_seconds: float = 0.0
    """From a failure to the machine's next unit."""
    retries: int = 2
    """Further tries of a unit before the run stops."""
    straggler_share: float = 0.0
    straggler_factor: float = 1.0
    """So many machines take so many times as long to compute."""
    variation: float = 0.0
    """Standard deviation of the logarithm of a unit's core seconds, beside what its size explains."""
    throttle_every_hours: float = float("inf")
    throttle_minutes: float = 0.0
    throttle_factor: float = 1.0
    """From time to time the storage gives only this share of its rates, for so long in the mean."""
    kills: tuple[tuple[float, int], ...] = field(default=())
    """Machines that fail at a set time: (seconds, number of the machine)."""

    def connection(self, units: int) -> float:
        """Bytes that one connection gives in a second while a stage of so many units runs."""
        beside = min(self.workers, -(-units // self.machines))
        return min(self.connection_bytes_per_second, self.machine_bytes_per_second / max(1, beside))
