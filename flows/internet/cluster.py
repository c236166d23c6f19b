"""A run of stages on a cluster, simulated: workers take units, machines fail, some are slow, storage is throttled.

Seeded: the same work, cluster and seed give the same result. A machine's workers are one pool, as those of a Prefect
task are: when one dies, all units in flight on the machine are lost and tried again, before all that wait. A unit
that has no tries left stops the run; it is then started again by hand, and committed units are kept.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random

from flows.internet.events import Clock, Share, Shared
from flows.internet.work import Cluster, StageWork, UnitWork

_INSTANT = 1e-9
MOST_STOPS = 20
"""After so many stops a run would never end: the rest is simulated without failures, and the result says so."""


@dataclass
class StageTime:
    """What became of a stage. Core seconds count lost ones, too."""

    name: str
    seconds: float = 0.0
    core_seconds: float = 0.0
    lost_core_seconds: float = 0.0
    failures: int = 0
    retried_units: int = 0


@dataclass
class Simulated:
    """The outcome of a simulation."""

    seconds: float
    stages: list[StageTime]
    stopped: int = 0
    """How often a unit had no tries left, so that somebody had to start the run again."""
    endless: str = ""
    """The stage whose units take so long that machines fail before they end; empty where there is none."""

    @property
    def failures(self) -> int:
        """Failures of machines while units ran."""
        return sum(stage.failures for stage in self.stages)

    @property
    def core_seconds(self) -> float:
        """Core seconds of all stages, lost ones among them."""
        return sum(stage.core_seconds for stage in self.stages)

    @property
    def lost_core_seconds(self) -> float:
        """Core seconds of units that were done again."""
        return sum(stage.lost_core_seconds for stage in self.stages)

    def stage(self, name: str) -> StageTime:
        """The stage of this name. Raises KeyError."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise KeyError(name)


@dataclass(eq=False)
class _Worker:
    machine: _Machine
    started: bool = False
    warm: bool = False  # has done a unit of this stage
    unit: int | None = None
    phase: int = 0
    share: tuple[Shared, Share] | None = None
    spent: float = 0.0  # core seconds of the unit that it has
    life: int = 0  # changes when it dies, so that what was planned for it before does not happen


@dataclass(eq=False)
class _Machine:
    number: int
    processor: Shared
    up: bool = True
    workers: list[_Worker] = field(default_factory=list)


def simulate(stages: Sequence[StageWork], cluster: Cluster, seed: int = 0) -> Simulated:
    """Run stages one after another on a cluster.

    Raises ValueError where the cluster has no machine, core or worker.
    """
    for name in ("machines", "cores", "workers"):
        if getattr(cluster, name) < 1:
            raise ValueError(f"a cluster needs at least one of {name}, not {getattr(cluster, name)}")
    return _Run(stages, cluster, Random(seed)).result()


class _Run:
    def __init__(self, stages: Sequence[StageWork], cluster: Cluster, chance: Random) -> None:
        self.clock = Clock()
        self.cluster = cluster
        self.chance = chance
        self.stages = stages
        self.times = [StageTime(stage.name) for stage in stages]
        self.stopped = 0
        self.endless = ""
        self.finished = False
        cap = cluster.connection(cluster.machines * cluster.workers)
        self.read = _resource(self.clock, cluster.read_bytes_per_second, cap)
        self.write = _resource(self.clock, cluster.write_bytes_per_second, cap)
        self.requests = _resource(self.clock, cluster.requests_per_second, math.inf)
        # A core that is busy alone goes at full speed; all together do what the efficiency leaves of them.
        shared = cluster.cores * cluster.busy_efficiency
        slow = round(cluster.straggler_share * cluster.machines)
        speeds = [
            cluster.core_speed / (cluster.straggler_factor if at < slow else 1.0) for at in range(cluster.machines)
        ]
        chance.shuffle(speeds)
        self.machines = [
            _Machine(number, Shared(self.clock, shared * speed, speed)) for number, speed in enumerate(speeds)
        ]
        for machine in self.machines:
            machine.workers = [_Worker(machine) for _ in range(cluster.workers)]
        self.pending: deque[int] = deque()
        self.attempts: dict[int, int] = {}
        self.running = 0
        self.at = -1
        self.began = 0.0
        self.idle: deque[_Worker] = deque()
        self.units: list[UnitWork] = []

    def result(self) -> Simulated:
        for time, number in self.cluster.kills:
            machine = self.machines[number % len(self.machines)]
            self.clock.at(time, lambda machine=machine: self._fail(machine))  # type: ignore[misc]
        for machine in self.machines:
            self._expect_failure(machine)
        self._expect_throttling()
        self._next_stage()
        while not self.finished and self.clock.step():
            pass
        assert self.finished
        return Simulated(self.clock.now, self.times, self.stopped, self.endless)

    def _next_stage(self) -> None:
        if self.at >= 0:
            self.times[self.at].seconds = self.clock.now - self.began
        self.at += 1
        if self.at == len(self.stages):
            self.finished = True
            return
        self.began = self.clock.now
        self.clock.at(self.clock.now + self.stages[self.at].driver_seconds, self._open)

    def _open(self) -> None:
        stage = self.stages[self.at]
        for moved in (self.read, self.write):
            if moved is not None:
                moved.change(cap=min(self.cluster.connection(stage.count), 1e300))
        self.units = [self._varied(unit) for unit in stage.units]
        weights = [unit.core_seconds / unit.cores + unit.wait_seconds for unit in stage.units]
        self.pending = deque(sorted(range(len(weights)), key=lambda index: -weights[index]))
        self.attempts = {}
        # A few units go to as many machines, not all to the first.
        rows = zip(*(machine.workers for machine in self.machines if machine.up), strict=True)
        self.idle = deque(worker for row in rows for worker in row)
        for machine in self.machines:
            for worker in machine.workers:
                worker.warm = False
        self._hand_out()

    def _varied(self, unit: UnitWork) -> UnitWork:
        sigma = self.cluster.variation
        if not sigma:
            return unit
        factor = math.exp(self.chance.gauss(-sigma * sigma / 2, sigma))
        return replace(unit, core_seconds=unit.core_seconds * factor)

    def _hand_out(self) -> None:
        while self.pending and self.idle and self.running < self.stages[self.at].count:
            worker = self.idle.popleft()
            worker.unit, worker.phase, worker.spent = self.pending.popleft(), 0, 0.0
            self.running += 1
            self._go_on(worker)
        if not self.pending and not self.running:
            self._next_stage()

    def _go_on(self, worker: _Worker) -> None:
        """Take a worker's unit through its next phase, or end it."""
        assert worker.unit is not None
        unit = self.units[worker.unit]
        worker.share = None
        while worker.phase < 5:
            worker.phase += 1
            if worker.phase == 1 and unit.requests:
                return self._ask(worker, self.requests, unit.requests, 1.0)
            if worker.phase == 2 and unit.read_bytes:
                return self._ask(worker, self.read, unit.read_bytes, self._connections(unit))
            if worker.phase == 3:
                return self._ask(worker, worker.machine.processor, *self._computing(worker, unit))
            if worker.phase == 4 and unit.write_bytes:
                return self._ask(worker, self.write, unit.write_bytes, self._connections(unit))
            if worker.phase == 5 and unit.wait_seconds:
                return self._wait(worker, unit.wait_seconds)
        self._end(worker)
        return None

    def _connections(self, unit: UnitWork) -> float:
        return self.cluster.connections(unit, self.stages[self.at].count)

    def _computing(self, worker: _Worker, unit: UnitWork) -> tuple[float, float]:
        """Core seconds and cores, with what a fresh worker takes more: that is done by one core."""
        extra = 0.0 if worker.started else self.cluster.start_seconds
        extra += 0.0 if worker.warm else self.stages[self.at].warm_seconds
        worker.started = worker.warm = True
        work = unit.core_seconds + extra
        work = max(work, _INSTANT)  # an empty unit is an event, too
        cores = work / max(unit.core_seconds / unit.cores + extra, _INSTANT)
        worker.spent = work
        return work, cores

    def _ask(self, worker: _Worker, resource: Shared | None, work: float, demand: float) -> None:
        if resource is None:  # without a limit
            return self._go_on(worker)
        worker.share = (resource, resource.add(work, demand, lambda: self._go_on(worker)))
        return None

    def _wait(self, worker: _Worker, seconds: float) -> None:
        life = worker.life
        self.clock.at(self.clock.now + seconds, lambda: self._go_on(worker) if worker.life == life else None)

    def _end(self, worker: _Worker) -> None:
        self.times[self.at].core_seconds += worker.spent
        worker.unit = None
        self.running -= 1
        self.idle.appendleft(worker)  # so that the parts of one unit are done by one process
        self._hand_out()

    def _expect_failure(self, machine: _Machine) -> None:
        mean = 3600 * self.cluster.failure_hours
        if mean < math.inf:
            self.clock.at(self.clock.now + self.chance.expovariate(1 / mean), lambda: self._fail(machine, True))

    def _fail(self, machine: _Machine, again: bool = False) -> None:
        if not machine.up or self.finished or (again and self.endless):
            if again and not self.endless:
                self._expect_failure(machine)
            return
        machine.up = False
        lost = [worker for worker in machine.workers if worker.unit is not None]
        stage = self.times[self.at]
        stage.failures += bool(lost)
        self.idle = deque(worker for worker in self.idle if worker.machine is not machine)
        out_of_tries = False
        for worker in lost:
            done = worker.spent
            if worker.share is not None:
                resource, share = worker.share
                served = resource.remove(share)
                done = served if resource is machine.processor else done
            assert worker.unit is not None
            out_of_tries |= self._again(worker.unit)
            stage.core_seconds += done
            stage.lost_core_seconds += done
            worker.unit, worker.share = None, None
            worker.life += 1
            self.running -= 1
        if out_of_tries:
            self._stop()
        for worker in machine.workers:
            worker.started = worker.warm = False
        self.clock.at(self.clock.now + self.cluster.restart_seconds, lambda: self._come_back(machine, again))
        if lost:
            self._hand_out()

    def _again(self, unit: int) -> bool:
        """Put a unit before all that wait. Whether it had no tries left."""
        self.attempts[unit] = self.attempts.get(unit, 0) + 1
        self.times[self.at].retried_units += 1
        self.pending.appendleft(unit)
        return self.attempts[unit] > self.cluster.retries

    def _stop(self) -> None:
        """Count a stop, one however many units had no tries left; the run that is started then counts tries anew."""
        self.stopped += 1
        self.attempts = {}
        if self.stopped >= MOST_STOPS:
            self.endless = self.stages[self.at].name

    def _come_back(self, machine: _Machine, again: bool) -> None:
        machine.up = True
        if again:
            self._expect_failure(machine)
        self.idle.extend(machine.workers)
        if self.pending:
            self._hand_out()

    def _expect_throttling(self) -> None:
        cluster = self.cluster
        if cluster.throttle_every_hours < math.inf and cluster.throttle_minutes > 0:
            wait = self.chance.expovariate(1 / (3600 * cluster.throttle_every_hours))
            self.clock.at(self.clock.now + wait, lambda: self._throttle(cluster.throttle_factor))

    def _throttle(self, factor: float) -> None:
        cluster = self.cluster
        rates = (cluster.read_bytes_per_second, cluster.write_bytes_per_second, cluster.requests_per_second)
        for resource, rate in zip((self.read, self.write, self.requests), rates, strict=True):
            if resource is not None and rate < math.inf:
                resource.change(rate * factor)
        if factor == 1.0:
            self._expect_throttling()
        else:
            wait = self.chance.expovariate(1 / (60 * cluster.throttle_minutes))
            self.clock.at(self.clock.now + wait, lambda: self._throttle(1.0))


def _resource(clock: Clock, capacity: float, cap: float) -> Shared | None:
    """A shared resource, None where nothing limits it."""
    if capacity == math.inf and cap == math.inf:
        return None
    return Shared(clock, min(capacity, 1e300), min(cap, 1e300))
