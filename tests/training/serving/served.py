"""A small model with its service, for the tests of serving."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.training.small_models import tiny_checkpoint
from training.serving.engine import Engine, Event
from training.serving.errors import ApiError
from training.serving.limits import Limits
from training.serving.service import Service
from training.serving.writing import Finished, Job


def small_service(folder: Path, context_length: int = 64, **limits: Any) -> Service:
    checkpoint = tiny_checkpoint(folder, context_length=context_length)
    return Service.load(checkpoint, "tiny", limits=Limits(**limits))


class Gate:
    """Lets tokens through while it is open: between a real model and who asks for its tokens it makes time stand still.

    `name`: the method of `owner` that yields tokens. `broken`: what to raise instead of one.
    """

    def __init__(self, owner: Any, name: str = "tokens") -> None:
        self._source = getattr(owner, name)
        self.open = threading.Event()
        self.open.set()
        self.broken: BaseException | None = None
        self.running = 0
        setattr(owner, name, self.tokens)

    def tokens(self, *arguments: Any) -> Iterator[int]:
        self.running += 1
        try:
            for token in self._source(*arguments):
                assert self.open.wait(60)
                if self.broken is not None:
                    raise self.broken
                yield token
        finally:
            self.running -= 1


class Collected:
    """A listener that keeps what it is told."""

    def __init__(self) -> None:
        self.text = ""
        self.end: Finished | ApiError | None = None
        self._done = threading.Event()

    def __call__(self, event: Event) -> None:
        assert self.end is None, "an event after the end"
        if isinstance(event, str):
            self.text += event
        else:
            self.end = event
            self._done.set()

    def wait(self) -> Collected:
        assert self._done.wait(60)
        return self


def write(engine: Engine, *jobs: Job) -> list[Collected]:
    collected = [Collected() for _ in jobs]
    engine.submit(list(zip(jobs, collected, strict=True)))
    return [one.wait() for one in collected]
