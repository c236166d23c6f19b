from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.internet.events import Clock, Shared

Job = tuple[float, float, float]  # arrival, work, demand


def served(jobs: Sequence[Job], capacity: float, cap: float) -> tuple[list[float], float]:
    """When each job is done, by the resource that is tested, and what it says it served."""
    clock = Clock()
    resource = Shared(clock, capacity, cap)
    ends = [math.nan] * len(jobs)

    def finish(index: int) -> None:
        ends[index] = clock.now

    def arrive(index: int) -> None:
        _, work, demand = jobs[index]
        resource.add(work, demand, lambda: finish(index))

    for index, (arrival, _, _) in enumerate(jobs):
        clock.at(arrival, lambda index=index: arrive(index))  # type: ignore[misc]
    while clock.step():
        pass
    return ends, resource.served


def brute_force(jobs: Sequence[Job], capacity: float, cap: float) -> list[float]:
    """The same by looking at every job from one arrival or departure to the next."""
    left = [work for _, work, _ in jobs]
    ends = [math.nan] * len(jobs)
    now = 0.0
    while any(math.isnan(end) for end in ends):
        here = [at for at, job in enumerate(jobs) if job[0] <= now and math.isnan(ends[at])]
        coming = [job[0] for job in jobs if job[0] > now]
        if not here:
            now = min(coming)
            continue
        rate = min(cap, capacity / sum(jobs[at][2] for at in here))
        step = min([left[at] / (rate * jobs[at][2]) for at in here] + [time - now for time in coming])
        now += step
        for at in here:
            left[at] -= step * rate * jobs[at][2]
            if left[at] <= 1e-9 * jobs[at][1]:
                ends[at] = now
    return ends


NUMBER = st.floats(0.1, 20.0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 30), NUMBER, st.floats(0.5, 4.0)), min_size=1, max_size=12), NUMBER, NUMBER)
def test_a_shared_resource_serves_as_a_brute_force_does(jobs: list[Job], capacity: float, cap: float) -> None:
    ends, total = served(jobs, capacity, cap)
    assert ends == pytest.approx(brute_force(jobs, capacity, cap), rel=1e-6, abs=1e-6)
    assert total == pytest.approx(sum(work for _, work, _ in jobs), rel=1e-6)


def test_a_job_that_is_taken_back_had_its_part_and_leaves_room() -> None:
    clock = Clock()
    resource = Shared(clock, 2.0, 10.0)
    ended: list[float] = []
    gone = resource.add(100.0, 1.0, lambda: ended.append(-1.0))
    resource.add(10.0, 1.0, lambda: ended.append(clock.now))
    told: list[float] = []
    clock.at(4.0, lambda: told.append(resource.remove(gone)))
    while clock.step():
        pass
    assert told == [pytest.approx(4.0)]  # half of the capacity for four seconds
    assert ended == [pytest.approx(7.0)]  # 4 by then, the other 6 at full capacity


def test_another_capacity_counts_from_then_on_faster_and_slower() -> None:
    for later, end in ((1.0, 4.0 + 12.0), (4.0, 4.0 + 3.0)):
        clock = Clock()
        resource = Shared(clock, 2.0)
        ended: list[float] = []
        resource.add(20.0, 1.0, lambda: ended.append(clock.now))  # noqa: B023
        clock.at(4.0, lambda: resource.change(later))  # noqa: B023
        while clock.step():
            pass
        assert ended == [pytest.approx(end)]


def test_late_small_work_ends_although_floats_cannot_tell_its_time() -> None:
    clock = Clock()
    resource = Shared(clock, 3e9)
    ended: list[float] = []
    clock.at(4e7, lambda: resource.add(1e-3, 1.0, lambda: ended.append(clock.now)) and None)
    for _ in range(100):
        if not clock.step():
            break
    assert ended == [pytest.approx(4e7)]


def test_a_resource_without_capacity_is_refused() -> None:
    with pytest.raises(ValueError, match="capacity above 0"):
        Shared(Clock(), 0.0)
