from __future__ import annotations

import heapq
from dataclasses import replace
from random import Random

import pytest

from flows.internet.cluster import simulate
from flows.internet.limits import bounds
from flows.internet.work import Cluster, StageWork, UnitWork

ONE = Cluster(machines=1, cores=2, workers=2)


def units(count: int, seconds: float = 10.0, **others: float) -> tuple[UnitWork, ...]:
    return tuple(UnitWork(seconds, **others) for _ in range(count))


def listed(seconds: list[float], workers: int) -> float:
    """The longest units first, each to the worker that is free first."""
    free = [0.0] * workers
    for each in sorted(seconds, reverse=True):
        heapq.heappush(free, heapq.heappop(free) + each)
    return max(free)


def test_units_are_handed_out_as_the_pool_does_and_stages_wait_for_each_other() -> None:
    chance = Random(1)
    first, second = [chance.uniform(1, 9) for _ in range(37)], [chance.uniform(1, 9) for _ in range(11)]
    stages = [
        StageWork("a", tuple(UnitWork(each) for each in first), driver_seconds=2.0),
        StageWork("b", tuple(UnitWork(each) for each in second)),
    ]
    cluster = Cluster(machines=2, cores=3, workers=3)
    simulated = simulate(stages, cluster)
    assert [stage.seconds for stage in simulated.stages] == [
        pytest.approx(2.0 + listed(first, 6)),
        pytest.approx(listed(second, 6)),
    ]
    assert simulated.seconds == pytest.approx(sum(stage.seconds for stage in simulated.stages))


def test_a_unit_that_uses_many_cores_slows_the_others_of_its_machine() -> None:
    stage = StageWork("wide", (UnitWork(20.0, cores=2.0), UnitWork(20.0, cores=2.0)))
    assert simulate([stage], ONE).seconds == pytest.approx(20.0)  # 40 core seconds, two cores
    assert simulate([stage], replace(ONE, cores=4)).seconds == pytest.approx(10.0)


def test_busy_cores_are_slower_and_one_alone_is_not() -> None:
    slow = replace(ONE, busy_efficiency=0.8)
    assert simulate([StageWork("a", units(10))], slow).seconds == pytest.approx(50.0 / 0.8)
    assert simulate([StageWork("a", units(10))], replace(slow, workers=1)).seconds == pytest.approx(100.0)


def test_starting_and_warming_up_cost_each_worker_once() -> None:
    stages = [StageWork("a", units(6), warm_seconds=3.0), StageWork("b", units(6), warm_seconds=1.0)]
    simulated = simulate(stages, replace(ONE, start_seconds=2.0))
    assert [stage.seconds for stage in simulated.stages] == [pytest.approx(35.0), pytest.approx(31.0)]
    assert simulated.core_seconds == pytest.approx(120.0 + 2 * (2.0 + 3.0 + 1.0))


def test_storage_is_shared_and_its_bytes_are_waited_for() -> None:
    stage = StageWork("a", units(2, 5.0, read_bytes=100.0, write_bytes=10.0, requests=4.0))
    narrow = replace(ONE, read_bytes_per_second=20.0, write_bytes_per_second=20.0, requests_per_second=8.0)
    assert simulate([stage], narrow).seconds == pytest.approx(1.0 + 10.0 + 5.0 + 1.0)
    # A machine's network is parted between its workers.
    thin = replace(ONE, read_bytes_per_second=1e9, machine_bytes_per_second=20.0)
    assert simulate([StageWork("a", units(2, 5.0, read_bytes=100.0))], thin).seconds == pytest.approx(15.0)


def test_a_unit_of_many_connections_has_no_more_than_its_part_of_a_machines_network() -> None:
    wide = units(2, 5.0, read_bytes=100.0, connections=8.0)
    thin = replace(ONE, connection_bytes_per_second=4.0, machine_bytes_per_second=20.0)
    assert simulate([StageWork("alone", wide[:1])], thin).seconds == pytest.approx(100.0 / 20.0 + 5.0)
    assert simulate([StageWork("two", wide)], thin).seconds == pytest.approx(100.0 / 10.0 + 5.0)
    fast = replace(thin, machine_bytes_per_second=1e9)
    assert simulate([StageWork("alone", wide[:1])], fast).seconds == pytest.approx(100.0 / (8 * 4.0) + 5.0)


def test_few_units_are_spread_over_the_machines() -> None:
    stage = StageWork("wide", units(2, 20.0, cores=2.0))
    assert simulate([stage], replace(ONE, machines=2)).seconds == pytest.approx(10.0)  # 20.0 on one machine


def test_a_unit_in_parts_is_done_by_one_process_that_keeps_those_it_has_done() -> None:
    stage = StageWork("digests", units(100), unit_count=1)
    assert simulate([stage], replace(ONE, machines=2, start_seconds=2.0)).seconds == pytest.approx(1002.0)
    killed = simulate([stage], replace(ONE, kills=((505.0, 0),), restart_seconds=2.0))
    assert (killed.seconds, killed.lost_core_seconds) == (pytest.approx(1007.0), pytest.approx(5.0))
    often = simulate([StageWork("digests", units(600, 60.0), unit_count=1)], replace(ONE, failure_hours=0.5))
    assert often.failures > 5
    assert (often.endless, often.stopped) == ("", 0)
    assert often.seconds < 1.1 * 600 * 60.0


def test_a_death_takes_what_was_in_flight_on_its_machine_and_no_more() -> None:
    stage = StageWork("a", units(6))
    cluster = replace(ONE, kills=((15.0, 0),), restart_seconds=2.0)
    simulated = simulate([stage], cluster)
    assert simulated.seconds == pytest.approx(37.0)  # 10 done; 5 lost of each of two; 2 to restart; 20 for four
    assert simulated.lost_core_seconds == pytest.approx(10.0)
    assert simulated.core_seconds - simulated.lost_core_seconds == pytest.approx(60.0)
    assert (simulated.failures, simulated.stage("a").retried_units, simulated.stopped) == (1, 2, 0)
    other = simulate([stage], replace(cluster, machines=2))
    assert other.lost_core_seconds == pytest.approx(10.0)
    assert other.seconds == pytest.approx(25.0)  # machine 1 is idle by then and takes both


def test_a_machine_that_dies_while_it_is_down_or_idle_loses_nothing() -> None:
    stage = StageWork("a", units(2), driver_seconds=10.0)
    simulated = simulate([stage], replace(ONE, kills=((1.0, 0), (2.0, 0)), restart_seconds=5.0))
    assert (simulated.seconds, simulated.failures, simulated.lost_core_seconds) == (pytest.approx(20.0), 0, 0.0)


def test_a_unit_without_tries_left_stops_the_run_and_is_done_when_it_is_started_again() -> None:
    kills = tuple((5.0 + 10.0 * number, 0) for number in range(3))
    simulated = simulate([StageWork("a", units(1))], replace(ONE, kills=kills, retries=2))
    assert (simulated.stopped, simulated.stage("a").retried_units) == (1, 3)
    assert simulated.core_seconds - simulated.lost_core_seconds == pytest.approx(10.0)
    both = simulate([StageWork("a", units(2))], replace(ONE, kills=kills, retries=2))
    assert (both.stopped, both.stage("a").retried_units) == (1, 6)  # the run stops once for both


def test_failures_stragglers_and_throttling_are_random_by_the_seed_alone_and_keep_the_work() -> None:
    stages = [StageWork(name, units(300, 60.0, read_bytes=1e6)) for name in "ab"]
    cluster = Cluster(
        machines=8,
        cores=4,
        workers=4,
        read_bytes_per_second=1e7,
        failure_hours=0.2,
        restart_seconds=30.0,
        retries=9,
        straggler_share=0.25,
        straggler_factor=3.0,
        variation=0.3,
        throttle_every_hours=0.05,
        throttle_minutes=2.0,
        throttle_factor=0.1,
    )
    one, same, other = (simulate(stages, cluster, seed) for seed in (3, 3, 4))
    assert one == same
    assert one.seconds != other.seconds
    assert one.failures > 0
    kept = one.core_seconds - one.lost_core_seconds
    assert kept == pytest.approx(2 * 300 * 60.0, rel=0.05)  # each unit once, give or take its variation
    calm = replace(cluster, failure_hours=float("inf"), straggler_share=0.0, throttle_every_hours=float("inf"))
    assert simulate(stages, calm, 3).seconds < one.seconds


def test_no_schedule_comes_below_the_bound_of_any_limit() -> None:
    chance = Random(5)
    for _ in range(20):
        stage = StageWork(
            "a",
            tuple(
                UnitWork(
                    chance.uniform(1, 50),
                    cores=chance.choice((1.0, 2.0)),
                    requests=chance.uniform(0, 20),
                    read_bytes=chance.uniform(0, 1e3),
                    write_bytes=chance.uniform(0, 1e3),
                )
                for _ in range(chance.randint(1, 40))
            ),
            driver_seconds=chance.uniform(0, 5),
        )
        cluster = Cluster(
            machines=chance.randint(1, 4),
            cores=4,
            workers=chance.randint(1, 4),
            read_bytes_per_second=200.0,
            write_bytes_per_second=100.0,
            requests_per_second=10.0,
            machine_bytes_per_second=150.0,
            connection_bytes_per_second=60.0,
        )
        found = bounds(stage, cluster)
        assert simulate([stage], cluster).seconds >= max(found.values()) * (1 - 1e-6), found


def test_units_put_together_count_as_many_and_a_cluster_of_nothing_is_refused() -> None:
    stage = StageWork("a", units(4), unit_count=4000)
    assert stage.count == 4000
    assert bounds(stage, ONE)["parallelism"] == 0.0
    with pytest.raises(ValueError, match="at least one of workers, not 0"):
        simulate([stage], replace(ONE, workers=0))


def test_units_that_take_longer_than_machines_live_are_named_and_the_simulation_ends() -> None:
    stages = [StageWork("short", units(4)), StageWork("long", units(1, 3600.0 * 100))]
    simulated = simulate(stages, replace(ONE, failure_hours=1.0, restart_seconds=60.0))
    assert simulated.endless == "long"
    assert simulated.stopped == 20
    assert simulated.core_seconds - simulated.lost_core_seconds == pytest.approx(40.0 + 3600.0 * 100)
