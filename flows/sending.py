"""What all that tell MLflow of a finished piece of work have in common: how they open a sender, and how they end."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import TypeVar

from flows.progress import publish
from training.tracking import Sender

AnySender = TypeVar("AnySender", bound=Sender)
SEND_SECONDS = 120.0
"""How long the end of a command waits for MLflow."""
_CLOSE_SECONDS = 10.0


class TrackingPending(RuntimeError):
    """The run is done, but MLflow could not be reached; everything is kept and the same command sends it later."""


class PublishHandler(logging.Handler):
    """Hands what the sender has to say to whoever watches the run."""

    def emit(self, record: logging.LogRecord) -> None:
        """Publish a line."""
        publish({"stage": "tracking", "line": record.getMessage()})


@contextlib.contextmanager
def sending(sender: AnySender) -> Iterator[AnySender]:
    """A sender at work, whose own words reach whoever watches the run."""
    handler = PublishHandler()
    logger = logging.getLogger("training.tracking")
    logger.addHandler(handler)
    try:
        with sender:
            yield sender
            sender.close(_CLOSE_SECONDS)
    finally:
        logger.removeHandler(handler)


@contextlib.contextmanager
def failing_with(sender: Sender) -> Iterator[None]:
    """Mark the sender's run as failed where what it tells of fails."""
    try:
        yield
    except BaseException:
        sender.finish("FAILED")
        raise


def deliver(sender: Sender, done: str) -> None:
    """Send all that waits, within SEND_SECONDS.

    Raises TrackingPending, which begins with `done`, where MLflow cannot be reached or refuses something.
    """
    complete = sender.flush(SEND_SECONDS)
    failures, uri = sender.failures, sender.location.tracking_uri
    sender.close(0.0)
    if failures:
        raise TrackingPending(f"{done}; MLflow at {uri} refused: {failures}")
    if not complete:
        raise TrackingPending(
            f"{done}; but MLflow at {uri} could not be reached: what it lacks is kept in {sender.folder}, start the "
            "same command again to send it"
        )
