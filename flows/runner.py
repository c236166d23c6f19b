"""One stage under Prefect: its units shared out to tasks, with retries, progress and a table at the end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

from prefect import get_run_logger, task
from prefect.artifacts import create_progress_artifact, create_table_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from flows.costs.forecast import remember_forecast
from flows.plan import Plan
from flows.process import end_running
from flows.progress import Event, format_quantity, listening, publish
from pipeline.execution import WorkerDied, available_cores, run_units
from pipeline.stage import Stage, StageRun, Unit, UnitRecord
from pipeline.store import Committed, StageRef
from training.energy import Meter, metered

PROGRESS_SECONDS = 2.0


def run_stage(plan: Plan, name: str) -> Committed:
    """Run one stage of a plan to its commit, inside a flow; a committed stage is a no-op.

    Raises what the stage raises: StageError, StoreError, ProcessFailed.
    """
    logger = get_run_logger()
    stage, ref = plan.stages[name], plan.refs[name]
    if ref.is_committed:
        committed = ref.committed()
        publish({"stage": name, "state": "reused", **_facts(committed)})
        logger.info("%s: committed before as %s; nothing to do", name, ref.fingerprint)
        return committed
    for parent in stage.inputs.values():
        parent.committed()
    plan.store.prepare(ref)
    waiting = plan.store.exclusive(ref, lambda message: publish({"stage": name, "line": message}))
    with waiting, Meter() as meter:
        if ref.is_committed:
            return ref.committed()
        remember_forecast(plan.store, stage, ref)
        run = StageRun(stage, plan.store, lambda: metered(meter))
        pending = run.plan()
        done = len(run.units) - len(pending)
        publish({"stage": name, "state": "started", "done": done, "total": len(run.units)})
        if done:
            logger.info("%s: %d of %d units were done before and are kept", name, done, len(run.units))
        with _followed(plan.recipe.name, name, len(run.units), done):
            _run_tasks(plan, stage, ref, pending, len(run.units))
        committed = run.commit()
    publish({"stage": name, "state": "committed", **_facts(committed)})
    logger.info("%s: committed as %s: %s", name, ref.fingerprint, _sentence(_facts(committed)))
    return committed


def _run_tasks(plan: Plan, stage: Stage[Any], ref: StageRef, pending: Sequence[Unit], total: int) -> None:
    workers = plan.recipe.execution.workers
    workers = available_cores() if workers is None else workers
    futures = []
    for group in _groups(pending, plan.recipe.execution.tasks_per_stage):
        label = _label(stage.name, group, total)
        futures.append(_run_units.with_options(task_run_name=label).submit(stage, ref, group, workers))
    failures = []
    try:
        for future in futures:
            try:
                for record in future.result():
                    # Heard of already where the task ran in this process, but not from a Dask or Ray worker.
                    publish({"stage": stage.name, "record": record})
            except Exception as error:
                failures.append(error)
    except BaseException:
        # SIGTERM reaches this thread alone, and Prefect then waits for the task's.
        end_running()
        raise
    if failures:
        raise failures[0]


def _worth_a_retry(_task: Any, _task_run: Any, state: Any) -> bool:
    """A worker that died or a network filesystem that hiccuped may succeed again; a defect or a full disk will not."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, WorkerDied | ConnectionError | TimeoutError)


@task(
    name="units",
    retries=2,
    retry_delay_seconds=[2, 10],
    retry_condition_fn=_worth_a_retry,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def _run_units(stage: Stage[Any], ref: StageRef, units: list[Unit], workers: int) -> list[UnitRecord]:
    """Run some units of a stage in this machine's worker processes; units that a first try finished are kept."""
    from pipeline.stage import read_record

    logger = get_run_logger()
    records = [record for unit in units if (record := read_record(ref, unit.index)) is not None]
    finished = {record.unit for record in records}
    for record in run_units(stage, ref, [unit for unit in units if unit.index not in finished], workers):
        records.append(record)
        publish({"stage": stage.name, "record": record})
        logger.info("%s: %s in %.1f s", stage.name, record.name, record.execution["seconds"])
    return records


def _groups(units: Sequence[Unit], tasks: int) -> list[list[Unit]]:
    """Share units out to at most `tasks` groups of neighbours of about the same weight."""
    total = sum(unit.weight or 1 for unit in units)
    groups: list[list[Unit]] = []
    weight = 0
    for unit in units:
        if not groups or weight >= total * len(groups) / tasks:
            groups.append([])
        groups[-1].append(unit)
        weight += unit.weight or 1
    return groups


def _label(stage: str, group: Sequence[Unit], total: int) -> str:
    first, last = group[0], group[-1]
    if total == 1:
        return f"{stage}: {first.name}"
    span = f"unit {first.index}" if first is last else f"units {first.index} to {last.index}"
    names = first.name if first is last else f"{first.name} … {last.name}"
    return f"{stage} {span} of {total}: {names}"


@contextlib.contextmanager
def _followed(recipe: str, name: str, total: int, done: int) -> Iterator[None]:
    """Keep a Prefect progress artifact true while a stage runs."""
    logger = get_run_logger()
    artifact: UUID = create_progress_artifact(
        progress=100.0 * done / max(total, 1),
        key=artifact_key(recipe, name),
        description=f"Progress of the stage {name}",
    )  # type: ignore[assignment]
    seen: set[int] = set()
    state = {"shown": time.monotonic()}

    def show(progress: float, force: bool = False) -> None:
        now = time.monotonic()
        if force or now - state["shown"] >= PROGRESS_SECONDS:
            state["shown"] = now
            update_progress_artifact(artifact, progress=min(progress, 100.0))

    def listen(event: Event) -> None:
        if event.get("stage") != name:
            return
        if "line" in event:
            logger.info("%s", event["line"])
        elif "record" in event and event["record"].unit not in seen:
            record: UnitRecord = event["record"]
            seen.add(record.unit)
            finished = done + len(seen)
            publish({"stage": name, "done": finished, "total": total, **_facts_of_counts(record.counts)})
            show(100.0 * finished / max(total, 1))
        elif event.get("event") == "progress":
            step, steps = event.get("step"), event.get("steps")
            if step and steps:
                show(100.0 * step / steps)
            logger.info("%s: %s", name, _sentence({key: value for key, value in event.items() if _is_fact(key, value)}))

    with listening(listen):
        yield
    show(100.0, force=True)


def artifact_key(*parts: str) -> str:
    """Return a key that Prefect allows: lower-case letters, digits and hyphens."""
    return "-".join(parts).replace("_", "-")


def stage_table(plan: Plan, names: Sequence[str]) -> None:
    """Publish the counts and costs of committed stages as a table artifact, under the name of the flow that runs."""
    rows = []
    for name in names:
        committed = plan.refs[name].committed()
        rows.append({"stage": name, **_facts(committed), "fingerprint": committed.fingerprint})
    create_table_artifact(
        table=rows,
        key=artifact_key(plan.recipe.name, str(flow_run.flow_name), "counts"),
        description=f"What {flow_run.flow_name} read, kept and dropped",
    )


def _facts(committed: Committed) -> dict[str, Any]:
    from pipeline.store import EXECUTION, read_json

    execution = read_json(f"{committed.path}/{EXECUTION}")
    return {
        **_facts_of_counts(committed.counts),
        "seconds": execution["wall_seconds"],
        "peak_memory_megabytes": round(execution["peak_memory_bytes"] / 1e6),
    }


def _facts_of_counts(counts: dict[str, int]) -> dict[str, Any]:
    shown = ("read", "kept", "dropped", "edited", "rejected", "tokens")
    return {name: counts[name] for name in shown if counts.get(name)}


def _is_fact(key: str, value: Any) -> bool:
    return key not in ("event", "stage") and isinstance(value, int | float | str)


def _sentence(facts: dict[str, Any]) -> str:
    return ", ".join(format_quantity(name, value) for name, value in facts.items())
