"""Engines: which Prefect task runner carries a flow's tasks: all that changes between a laptop and a cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.task_runners import ThreadPoolTaskRunner

# Tasks of a map stage share one pool of worker processes, so two in flight keep it busy at their seams.
_LOCAL_TASKS_IN_FLIGHT = 2


def task_runner(engine: str) -> Any:
    """Return the task runner of an engine. Raises ValueError naming the package that is missing."""
    if engine == "local":
        return ThreadPoolTaskRunner(max_workers=_LOCAL_TASKS_IN_FLIGHT)
    package = {"dask": "prefect_dask", "ray": "prefect_ray"}[engine]
    try:
        if engine == "dask":
            from prefect_dask import DaskTaskRunner as Runner
        else:
            from prefect_ray import RayTaskRunner as Runner
    except ImportError as error:
        raise ValueError(
            f"execution.engine is {engine!r}, which needs the package {package.replace('_', '-')}: "
            f"pip install {package.replace('_', '-')}"
        ) from error
    return Runner()


@contextlib.contextmanager
def without_heartbeat() -> Iterator[None]:
    """Run subflows without a heartbeat of their own: the parent's stands for them.

    Prefect 3.8 joins the heartbeat thread at the end of each flow, which costs up to a second a subflow.
    """
    with temporary_settings(updates={PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield
