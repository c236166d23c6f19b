"""The engine of a server: choices wait in a queue, a few are written at a time, a token of each with every pass.

One thread owns the model, so that requests never contend for the cores. A choice joins those that are being written
while they go on, and one whose listener has gone is dropped before its next token.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType

from training.generation import Generator
from training.serving.errors import ApiError
from training.serving.limits import Limits
from training.serving.rows import Rows
from training.serving.writing import Finished, Job, Writing

log = logging.getLogger(__name__)

Event = str | Finished | ApiError
"""A piece of text; the end; or what went wrong, which is an end too."""
Listener = Callable[[Event], None]


class Ticket:
    """A choice that was taken; `cancel` when nobody wants it any more."""

    def __init__(self, engine: Engine, job: Job, listener: Listener, now: float) -> None:
        self.job = job
        self.submitted = now
        self.cancelled = False
        self._engine = engine
        self._listener = listener

    def cancel(self) -> None:
        """Give up its place in the queue, or its slot before the next token; harmless when it has ended."""
        self._engine.cancel(self)

    def tell(self, event: Event) -> None:
        """Hand an event to the listener, unless nobody listens any more."""
        if not self.cancelled:
            with contextlib.suppress(RuntimeError):  # the listener's event loop is closed
                self._listener(event)


@dataclass
class _Slot:
    ticket: Ticket
    writing: Writing
    pieces: Iterator[str]
    tokens: Iterator[int]


class Engine:
    """Writes choices with one model; start it with `start()` or as a context manager."""

    def __init__(self, generator: Generator, limits: Limits | None = None) -> None:
        self.generator = generator
        self.limits = limits or Limits()
        self.rows = Rows(generator)
        self._changed = threading.Condition()
        self._waiting: deque[Ticket] = deque()
        self._slots: list[_Slot] = []
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> Engine:
        """Start the thread that writes."""
        self._thread.start()
        return self

    def close(self) -> None:
        """End the thread; what waits or is being written fails with 503."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()

    def __enter__(self) -> Engine:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def load(self) -> tuple[int, int]:
        """How many choices are being written and how many wait."""
        with self._changed:
            return len(self._slots), len(self._waiting)

    def submit(self, jobs: Sequence[tuple[Job, Listener]]) -> list[Ticket]:
        """Take all of these choices, or none: raises ApiError (429) where the queue has no room for them.

        A listener is called from the engine's thread: with pieces of text, then once with Finished or an ApiError.
        """
        with self._changed:
            if self._closed:
                raise ApiError(503, "the server is shutting down", "shutting_down")
            free = self.limits.slots - len(self._slots) + self.limits.queue
            if len(self._waiting) + len(jobs) > free:
                raise ApiError(
                    429,
                    f"{len(self._waiting)} choices wait and {len(self._slots)} are being written: the queue has no "
                    f"room for {len(jobs)} more; try again later",
                    "queue_full",
                    kind="rate_limit_error",
                )
            now = time.monotonic()
            tickets = [Ticket(self, job, listener, now) for job, listener in jobs]
            self._waiting.extend(tickets)
            self._changed.notify_all()
            return tickets

    def cancel(self, ticket: Ticket) -> None:
        """Drop a choice, wherever it is."""
        with self._changed:
            ticket.cancelled = True
            with contextlib.suppress(ValueError):
                self._waiting.remove(ticket)

    def _run(self) -> None:
        while self._admit():
            for slot in list(self._slots):
                if not self._advance(slot):
                    self._free(slot)
            try:
                self.rows.step()
            except Exception as error:
                log.exception("a pass failed")
                self.rows.clear()
                for slot in list(self._slots):
                    slot.ticket.tell(_failed(error))
                    self._free(slot)

    def _admit(self) -> bool:
        """Fill free slots from the queue, waiting where there is nothing to do; False when the engine is closed."""
        with self._changed:
            while not (self._closed or self._waiting or self._slots):
                self._changed.wait()
            if self._closed:
                left = [slot.ticket for slot in self._slots] + list(self._waiting)
                self._slots.clear()
                self._waiting.clear()
                for ticket in left:
                    ticket.tell(ApiError(503, "the server is shutting down", "shutting_down"))
                return False
            late = time.monotonic() - self.limits.queue_seconds
            while self._waiting and self._waiting[0].submitted < late:
                message = f"no slot came free within {self.limits.queue_seconds:g} s; try again later"
                self._waiting.popleft().tell(ApiError(503, message, "queue_timeout"))
            while self._waiting and len(self._slots) < self.limits.slots:
                ticket = self._waiting.popleft()
                tokens = self.rows.tokens(ticket.job)
                writing = Writing(self.generator, ticket.job, tokens, self.limits.request_seconds)
                self._slots.append(_Slot(ticket, writing, writing.pieces(), tokens))
            return True

    def _advance(self, slot: _Slot) -> bool:
        """Write a token; False when the choice has ended or nobody wants it. No error of one ends the others."""
        if slot.ticket.cancelled:
            return False
        try:
            piece = next(slot.pieces, None)
            if piece is not None:
                if piece:
                    slot.ticket.tell(piece)
                return True
            slot.ticket.tell(slot.writing.finished())
        except Exception as error:
            log.exception("a choice failed")
            slot.ticket.tell(_failed(error))
        return False

    def _free(self, slot: _Slot) -> None:
        try:
            slot.tokens.close()  # type: ignore[attr-defined]
        except Exception:  # the next pass will tell those whom it concerns
            log.exception("a choice could not be taken out of the batch")
        with self._changed:
            self._slots.remove(slot)


def _failed(error: Exception) -> ApiError:
    return ApiError(500, f"the model failed: {error}", "model_failed")
