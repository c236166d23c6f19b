"""An answer on its way to a client: whole, or as server-sent events while it is written."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from training.serving.answers import Choice, Form
from training.serving.engine import Engine, Event
from training.serving.errors import ApiError
from training.serving.writing import Finished

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send


class _ClientGone(Exception):
    """Nobody reads the answer any more."""


class Delivery:
    """The response to one request. A client that goes frees its places in the queue and its slots at once."""

    def __init__(
        self, engine: Engine, choices: Sequence[Choice], form: Form, stream: bool = False, include_usage: bool = False
    ) -> None:
        self._engine = engine
        self._choices = choices
        self._form = form
        self._streamed = stream
        self._include_usage = include_usage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Have the choices written and send them; raises ApiError as long as nothing is sent."""
        self._events: asyncio.Queue[tuple[int, Event | None]] = asyncio.Queue()
        jobs = [(choice.job, self._listener(index)) for index, choice in enumerate(self._choices)]
        tickets = self._engine.submit(jobs)
        watch = asyncio.create_task(self._watch(receive))
        try:
            with contextlib.suppress(_ClientGone):
                await (self._stream(send) if self._streamed else self._whole(scope, receive, send))
        finally:
            watch.cancel()
            for ticket in tickets:
                ticket.cancel()

    def _listener(self, index: int) -> Callable[[Event], None]:
        """What the engine's thread calls: it hands the event over to the event loop."""
        loop, events = asyncio.get_running_loop(), self._events

        def listener(event: Event) -> None:
            loop.call_soon_threadsafe(events.put_nowait, (index, event))

        return listener

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._events.put_nowait((0, None))

    async def _next(self) -> tuple[int, str | Finished]:
        """The next event of any choice, taken down in it; raises the error that it is."""
        index, event = await self._events.get()
        if event is None:
            raise _ClientGone
        if isinstance(event, ApiError):
            raise event
        if isinstance(event, Finished):
            self._choices[index].finished = event
        else:
            self._choices[index].pieces.append(event)
        return index, event

    @property
    def _complete(self) -> bool:
        return all(choice.finished is not None for choice in self._choices)

    async def _whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        from starlette.responses import JSONResponse

        while not self._complete:
            await self._next()
        await JSONResponse(self._form.whole(self._choices))(scope, receive, send)

    async def _stream(self, send: Send) -> None:
        """Send each piece as it comes. The status waits for the first, so that a failure before it has its own."""
        coming: tuple[int, str | Finished] | None = await self._next()
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if self._form.kind == "chat":
            for index in range(len(self._choices)):
                await _send(send, self._form.chunk(index, "", role="assistant"))
        for index, choice in enumerate(self._choices):
            if choice.prompt_text:
                await _send(send, self._form.chunk(index, choice.prompt_text))
        try:
            while coming is not None:
                index, event = coming
                ended = event if isinstance(event, Finished) else None
                await _send(send, self._form.chunk(index, None if ended else str(event), ended))
                coming = None if self._complete else await self._next()
            if self._include_usage:
                await _send(send, self._form.usage_chunk(self._choices))
            await _send(send, "[DONE]")
        except ApiError as error:
            await _send(send, error.as_dict())
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send(send: Send, part: dict[str, Any] | str) -> None:
    text = part if isinstance(part, str) else json.dumps(part, ensure_ascii=False, allow_nan=False)
    await send({"type": "http.response.body", "body": f"data: {text}\n\n".encode(), "more_body": True})
