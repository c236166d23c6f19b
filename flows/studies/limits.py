"""A Prefect concurrency limit that trials occupy, such as one of the GPUs of a machine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound


@contextlib.contextmanager
def occupied(limit: str | None) -> Iterator[None]:
    """Occupy one slot of a limit while the block runs; waits for it. Nothing where the server has none of that name."""
    if limit is None or not _exists(limit):
        yield
        return
    with concurrency(limit, occupy=1):
        yield


def _exists(limit: str) -> bool:
    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(limit)
        except ObjectNotFound:
            return False
    return True
