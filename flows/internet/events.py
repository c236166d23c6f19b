"""The two parts of a discrete-event simulation: a queue of events, and a resource that its users share evenly.

A shared resource serves all its users at once (processor sharing): each goes at the same rate, `capacity / demand` and
at most `cap`. So one clock that runs at that rate, the virtual time, tells when each is served, and an arrival or a
departure costs a step of a heap and no look at the others (Demers, Keshav and Shenker 1989, section 2).
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field

_TOLERANCE = 1e-9


class Clock:
    """Events in the order of their times; those of the same time in the order in which they were told."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def at(self, time: float, action: Callable[[], None]) -> None:
        """Have something done at a time, in seconds; a time that has passed means now. Infinity means never."""
        if time < math.inf:
            heapq.heappush(self._events, (max(time, self.now), next(self._numbers), action))

    def step(self) -> bool:
        """Carry out the next event. False where there is none."""
        if not self._events:
            return False
        self.now, _, action = heapq.heappop(self._events)
        action()
        return True


@dataclass(eq=False)
class Share:
    """What one user asks of a resource; `finished` is called when it is served."""

    work: float
    demand: float
    finished: Callable[[], None]
    ends: float = field(default=0.0, init=False)  # virtual time
    alive: bool = field(default=True, init=False)


class Shared:
    """A resource that its users share: `capacity` units of it in a second in all, `cap` for a demand of one.

    Units are what the capacity counts: bytes, requests, seconds of a core. `served` counts those delivered.
    """

    def __init__(self, clock: Clock, capacity: float, cap: float = math.inf) -> None:
        if not (capacity > 0 and cap > 0):
            raise ValueError(f"a resource needs a capacity above 0, not {capacity:g}, and a cap above 0, not {cap:g}")
        self._clock = clock
        self._capacity = capacity
        self._cap = cap
        self._demand = 0.0
        self._virtual = 0.0
        self._updated = clock.now
        self._waiting: list[tuple[float, int, Share]] = []
        self._numbers = itertools.count()
        self._planned = math.inf
        self.served = 0.0

    def add(self, work: float, demand: float, finished: Callable[[], None]) -> Share:
        """Ask for `work` units, at a rate of `demand` where nobody else asks. Returns what `remove` takes."""
        self._advance()
        share = Share(work, demand, finished)
        share.ends = self._virtual + work / demand
        self._demand += demand
        heapq.heappush(self._waiting, (share.ends, next(self._numbers), share))
        self._plan()
        return share

    def remove(self, share: Share) -> float:
        """Take back what was asked for, as its user died. Returns how much of it was served."""
        self._advance()
        if not share.alive:
            return share.work
        self._leave(share)
        left = max(0.0, share.ends - self._virtual) * share.demand
        self._plan()
        return share.work - left

    def change(self, capacity: float | None = None, cap: float | None = None) -> None:
        """Have another capacity, or another cap, from now on."""
        self._advance()
        self._capacity = self._capacity if capacity is None else capacity
        self._cap = self._cap if cap is None else cap
        self._planned = math.inf  # it may be due earlier or later than was planned
        self._plan()

    def _leave(self, share: Share) -> None:
        share.alive = False
        self._demand -= share.demand
        if self._demand < _TOLERANCE:
            self._demand = 0.0

    def _rate(self) -> float:
        return min(self._cap, self._capacity / self._demand) if self._demand else 0.0

    def _advance(self) -> None:
        passed = self._clock.now - self._updated
        if passed > 0:
            rate = self._rate()
            self._virtual += rate * passed
            self.served += rate * passed * self._demand
        self._updated = self._clock.now

    def _plan(self) -> None:
        while self._waiting and not self._waiting[0][2].alive:
            heapq.heappop(self._waiting)
        if not self._waiting:
            return
        left = max(0.0, self._waiting[0][0] - self._virtual)
        time = self._clock.now + left / self._rate()
        # One that is planned for an earlier time finds nobody served and plans anew: cheaper than taking it back.
        if time < self._planned:
            self._planned = time
            self._clock.at(time, lambda: self._serve(time))

    def _serve(self, planned: float) -> None:
        if planned != self._planned:
            return
        self._planned = math.inf
        self._advance()
        finished: list[Share] = []
        due = self._virtual + _TOLERANCE * (self._virtual + self._rate() * (1 + self._clock.now))  # as floats can tell
        while self._waiting and self._waiting[0][0] <= due:
            share = heapq.heappop(self._waiting)[2]
            if share.alive:
                self._leave(share)
                finished.append(share)
        self._plan()
        for share in finished:
            share.finished()
