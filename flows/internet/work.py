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
    """Units that there really are, and so run at once at most. 0: as many as `units`. They are more where some were put
    together for the simulation, and fewer where one was cut into parts, of which each is kept when it is done."""

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
        return min(self.connection_bytes_per_second, self.machine_bytes_per_second / self._beside(units))

    def connections(self, unit: UnitWork, units: int) -> float:
        """How many connections a unit of a stage of so many can fill: it has its part of a machine's network alone."""
        if self.machine_bytes_per_second == float("inf"):
            return unit.connections
        return min(unit.connections, self.machine_bytes_per_second / self._beside(units) / self.connection(units))

    def _beside(self, units: int) -> int:
        """Units that a machine has at once."""
        return max(1, min(self.workers, -(-units // self.machines)))
