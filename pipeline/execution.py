"""Execution: units of a stage in a pool of worker processes, and whole stages as plain functions.

Nothing here affects what a stage writes. Prefect's flows call the same functions with a task around them.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from pipeline.stage import Progress, Stage, StageError, StageRun, Unit, UnitRecord, execute_unit
from pipeline.store import Committed, StageRef, Store


class WorkerDied(StageError):
    """A worker process was killed from outside; the same work may succeed on another try."""


_pools: dict[int, ProcessPoolExecutor] = {}
_pools_lock = threading.Lock()

# What nearly every stage needs; imported once in the fork server, so that a worker starts in milliseconds.
_PRELOAD = ["numpy", "numba", "pyarrow.parquet", "pipeline.stage"]


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_pool(workers: int) -> ProcessPoolExecutor:
    """Return this process's pool of worker processes, started at its first use and kept for all stages."""
    with _pools_lock:
        pool = _pools.get(workers)
        if pool is None or getattr(pool, "_broken", False):
            if sys.platform == "linux":
                context: Any = multiprocessing.get_context("forkserver")
                context.set_forkserver_preload(_PRELOAD)
            else:
                context = multiprocessing.get_context("spawn")
            pool = _pools[workers] = ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent)
        return pool


def shut_down_pools() -> None:
    """End the worker processes of this process."""
    with _pools_lock:
        for pool in _pools.values():
            pool.shutdown(wait=False, cancel_futures=True)
        _pools.clear()


def _end_with_parent() -> None:
    """Make a worker end at once when its parent dies by any means, kill -9 too, so that no orphan goes on writing."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="end-with-parent").start()


def run_units(stage: Stage[Any], ref: StageRef, units: Sequence[Unit], workers: int) -> Iterator[UnitRecord]:
    """Run units and yield their records as they finish; `workers` 0 runs them here, one after another.

    Raises StageError at the first unit that fails; units that finished keep their output.
    """
    if workers == 0 or stage.in_process:
        for unit in units:
            yield execute_unit(stage, ref, unit)
        return
    pool = worker_pool(workers)
    largest_first = sorted(units, key=lambda unit: -unit.weight)
    futures: dict[Future[UnitRecord], Unit] = {}
    try:
        for unit in largest_first:
            futures[pool.submit(execute_unit, stage, ref, unit)] = unit
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool as error:
        names = ", ".join(unit.name for future, unit in futures.items() if not future.done() or future.exception())
        raise WorkerDied(
            f"stage {stage.name!r}: a worker process died (killed, or out of memory) while working on one of: "
            f"{names or 'its units'}; start again, with fewer workers or smaller units where memory was short"
        ) from error
    finally:
        for future in futures:
            future.cancel()


def run_stage(
    stage: Stage[Any],
    store: Store,
    workers: int | None = None,
    progress: Progress | None = None,
    on_wait: Callable[[str], None] | None = None,
) -> Committed:
    """Run a stage to its commit, or return at once where it is committed: the plain-function path, without Prefect."""
    run = StageRun(stage, store)
    if run.ref.is_committed:
        return run.ref.committed()
    store.prepare(run.ref)
    with store.exclusive(run.ref, on_wait):
        if run.ref.is_committed:  # another run finished it while this one waited
            return run.ref.committed()
        pending = run.plan()
        done = len(run.units) - len(pending)
        for record in run_units(stage, run.ref, pending, available_cores() if workers is None else workers):
            done += 1
            if progress is not None:
                progress(record, done, len(run.units))
        return run.commit()
