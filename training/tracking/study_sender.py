"""What a study tells MLflow: its own run, and a child run of it for each trial, each in a handful of calls."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from training.tracking.job_sender import JobSender


class StudySender(JobSender):
    """Sends one study. A trial is one request: it is sent once, and again only if what it came to has changed."""

    def log_trial(
        self,
        name: str,
        fingerprint: str,
        *,
        status: str,
        parameters: Mapping[str, object],
        metrics: Mapping[str, float],
        curve: Sequence[tuple[int, Mapping[str, float]]] = (),
        tags: Mapping[str, str] | None = None,
        started: float | None = None,
    ) -> None:
        """Store a trial as a child run of the study's.

        `status` is FINISHED, FAILED or KILLED; `curve` are metrics by step, `metrics` those of the end; `fingerprint`
        tells the child from those of other studies; `started` is a time in seconds since 1970.
        """
        arguments = {
            "name": name,
            "fingerprint": fingerprint,
            "status": status,
            "parameters": dict(parameters),
            "metrics": dict(metrics),
            "curve": [[step, dict(values)] for step, values in curve],
            "tags": dict(tags or {}),
        }
        now = time.time()
        stamped = {**arguments, "started": round(1000 * (started or now)), "ended": round(1000 * now)}
        self._ask(f"trial {name}", "log_trial", stamped, identity=arguments)
