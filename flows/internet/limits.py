"""Which limit binds: the time that a stage would take were one limit the only one, for each of them.

The longest of these times is a bound below which no schedule comes; the simulation adds what they have to wait for each
other, failures, stragglers and uneven units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flows.internet.cluster import Simulated
from flows.internet.work import Cluster, StageWork

LIMITS = {
    "cpu": "cores of all machines",
    "parallelism": "what one machine can do: the stage has too few units for all",
    "memory": "cores that stay idle, as there is no memory for more workers",
    "storage reads": "bytes that the storage gives in a second",
    "storage writes": "bytes that the storage takes in a second",
    "storage requests": "requests that the storage takes in a second",
    "network": "what goes through the network of a machine in a second",
    "connection": "one connection to the storage: the stage has too few units to have many",
    "driver": "the one process that plans and commits a stage, unit by unit",
}
"""Names of the limits, and what they are."""


def bounds(stage: StageWork, cluster: Cluster, cores_by_memory: int | None = None) -> dict[str, float]:
    """Seconds of a stage by each limit alone. `cores_by_memory`: workers of a machine that its memory allows."""
    seconds = stage.total("core_seconds") / (cluster.core_speed * cluster.busy_efficiency)
    every = cluster.machines * cluster.cores
    usable = min(float(every), stage.parallel_cores)
    moved = stage.total("read_bytes"), stage.total("write_bytes")
    machines = min(cluster.machines, stage.count)
    widest = max((unit.connections for unit in stage.units), default=1.0)
    connections = min(stage.count, cluster.machines * cluster.workers) * widest
    found = {
        "cpu": seconds / every,
        "parallelism": seconds / usable if usable < every else 0.0,
        "storage reads": moved[0] / cluster.read_bytes_per_second,
        "storage writes": moved[1] / cluster.write_bytes_per_second,
        "storage requests": stage.total("requests") / cluster.requests_per_second,
        "network": sum(moved) / (machines * cluster.machine_bytes_per_second),
        "connection": sum(moved) / (connections * cluster.connection(stage.count)),
        "driver": stage.driver_seconds,
        "memory": 0.0,
    }
    if cores_by_memory is not None and cores_by_memory < cluster.cores and stage.parallel_cores >= every:
        found["memory"] = seconds / (cluster.machines * max(1, cores_by_memory))
    return found


def binding(times: Mapping[str, float]) -> str:
    """The limit that takes longest."""
    return max(times, key=lambda name: times[name])


@dataclass(frozen=True)
class Share:
    """A limit, the time of the stages in which it binds, and their names."""

    limit: str
    seconds: float
    stages: tuple[str, ...]


def ranking(stages: Sequence[StageWork], simulated: Simulated, limits: Mapping[str, str]) -> list[Share]:
    """The limits by the simulated time of the stages in which each binds, the longest first."""
    seconds: dict[str, float] = {}
    names: dict[str, list[str]] = {}
    for stage, time in zip(stages, simulated.stages, strict=True):
        limit = limits[stage.name]
        seconds[limit] = seconds.get(limit, 0.0) + time.seconds
        names.setdefault(limit, []).append(stage.name)
    order = sorted(seconds, key=lambda limit: -seconds[limit])
    return [Share(limit, seconds[limit], tuple(names[limit])) for limit in order]
