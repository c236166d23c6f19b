"""The child run of a trial in MLflow, made and filled in as few calls as there can be."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from training.tracking.tracker import BATCH_METRICS, FINGERPRINT, Tracker, flatten, metric_name

PARENT = "mlflow.parentRunId"
_BATCH_PARAMS = 100


def send_trial(
    tracker: Tracker,
    parent_run_id: str,
    experiment_id: str,
    *,
    name: str,
    fingerprint: str,
    status: str,
    parameters: Mapping[str, object],
    metrics: Mapping[str, float],
    curve: Sequence[Sequence[Any]],
    tags: Mapping[str, str],
    started: int,
    ended: int,
) -> str:
    """Make the child run of a trial, or go on with the one of its fingerprint, fill it and end it; returns its id.

    Arguments as of `StudySender.log_trial`; times in milliseconds. What is no finite number is left out.
    """
    client, entities = tracker.client, tracker.entities
    query = f"tags.`{FINGERPRINT}` = '{fingerprint}' AND tags.`{PARENT}` = '{parent_run_id}'"
    found = client.search_runs([experiment_id], query, max_results=1)
    marks = {**tags, FINGERPRINT: fingerprint, PARENT: parent_run_id}
    run: Any = (
        found[0]
        if found
        else client.create_run(experiment_id, start_time=min(started, ended), tags=marks, run_name=name)
    )
    run_id = str(run.info.run_id)
    known = run.data.params if found else {}
    params = [entities.Param(*item) for item in flatten(parameters).items() if item[0] not in known]
    rows = [*curve, [max((int(step) for step, _ in curve), default=0), metrics]]
    points = [
        entities.Metric(metric_name(metric), float(value), ended, int(step))
        for step, values in rows
        for metric, value in values.items()
        if math.isfinite(value)
    ]
    if found:
        # A first attempt may have come so far: the same point twice would stand there twice.
        names = {point.key for point in points}
        arrived = {(m.key, m.step, m.value) for one in names for m in client.get_metric_history(run_id, one)}
        points = [point for point in points if (point.key, point.step, point.value) not in arrived]
    changed = [entities.RunTag(*item) for item in marks.items()] if found else []
    while points or params or changed:
        client.log_batch(run_id, points[:BATCH_METRICS], params[:_BATCH_PARAMS], changed)
        points, params, changed = points[BATCH_METRICS:], params[_BATCH_PARAMS:], []
    client.set_terminated(run_id, status, end_time=ended)
    return run_id
