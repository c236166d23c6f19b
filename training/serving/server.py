"""OpenAI's API over HTTP: /v1/models, /v1/completions, /v1/chat/completions, streamed as server-sent events."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hmac
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from training.serving.answers import Choice, Form
from training.serving.delivery import Delivery
from training.serving.engine import Engine
from training.serving.errors import ApiError, wrong
from training.serving.requests import Request, read_chat, read_completion
from training.serving.service import Service

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request as HttpRequest
    from starlette.responses import Response

LOOPBACK = ("127.0.0.1", "::1", "localhost")
_BRACKETED = ("[::1]", "[")
"""What starlette makes of the Host [::1]:8000; its older versions end a name at the first colon. Whatever is in
brackets is an address, never a name that somebody else could let point to this machine."""


def create_app(
    service: Service, engine: Engine, api_key: str | None = None, allowed_hosts: Sequence[str] = ("*",)
) -> Starlette:
    """The application. With an `api_key` every request under /v1 must bear it.

    `allowed_hosts` are the names under which the server may be called: on loopback none but its own, so that no web
    page can reach it under a name that it made point there. The engine is started and closed with the application.
    Raises ValueError where starlette is not installed.
    """
    try:
        from starlette.applications import Starlette
        from starlette.exceptions import HTTPException
        from starlette.middleware import Middleware
        from starlette.middleware.trustedhost import TrustedHostMiddleware
        from starlette.responses import JSONResponse
        from starlette.routing import Route
    except ImportError:
        raise ValueError("a server needs the packages starlette and uvicorn: pip install starlette uvicorn") from None

    def failed(request: HttpRequest, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            error = ApiError(error.status_code, f"{request.method} {request.url.path}: {error.detail}")
        assert isinstance(error, ApiError)
        headers = {"Retry-After": "1"} if error.status in (429, 503) else None
        return JSONResponse(error.as_dict(), error.status, headers)

    def broken(request: HttpRequest, error: Exception) -> Response:
        return JSONResponse(ApiError(500, "internal error; the server's log tells more").as_dict(), 500)

    def guarded(handler: Callable[[HttpRequest], Awaitable[Any]]) -> Callable[[HttpRequest], Awaitable[Any]]:
        @functools.wraps(handler)
        async def checked(request: HttpRequest) -> Any:
            _check_key(request, api_key)
            return await handler(request)

        return checked

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        with engine:
            yield

    async def models(request: HttpRequest) -> Response:
        return JSONResponse({"object": "list", "data": [_model(service, started)]})

    async def model(request: HttpRequest) -> Response:
        if (asked := request.path_params["name"]) != service.name:
            raise ApiError(404, f"the model {asked!r} does not exist", "model_not_found", "model")
        return JSONResponse(_model(service, started))

    async def completions(request: HttpRequest) -> Delivery:
        asked = read_completion(await _body(request, service))
        jobs = await asyncio.to_thread(service.completion_jobs, asked)
        _check_stream(asked)
        choices = [Choice(job, service.prompt_text(job)) for job in jobs]
        return Delivery(engine, choices, Form("completion", service.name), asked.stream, asked.include_usage)

    async def chat(request: HttpRequest) -> Delivery:
        asked = read_chat(await _body(request, service))
        jobs = await asyncio.to_thread(service.chat_jobs, asked)
        _check_stream(asked)
        choices = [Choice(job) for job in jobs]
        return Delivery(engine, choices, Form("chat", service.name), asked.stream, asked.include_usage)

    async def health(request: HttpRequest) -> Response:
        writing, waiting = engine.load
        return JSONResponse({"status": "ok", "writing": writing, "waiting": waiting})

    started = int(time.time())
    return Starlette(
        routes=[
            Route("/v1/models", guarded(models)),
            Route("/v1/models/{name:path}", guarded(model)),
            Route("/v1/completions", guarded(completions), methods=["POST"]),
            Route("/v1/chat/completions", guarded(chat), methods=["POST"]),
            Route("/health", health),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(allowed_hosts), www_redirect=False)],
        exception_handlers={ApiError: failed, HTTPException: failed, Exception: broken},
        lifespan=lifespan,
    )


def host_names(host: str) -> tuple[str, ...]:
    """The `allowed_hosts` of a server that listens on `host`: on loopback its own names alone."""
    return (*LOOPBACK, *_BRACKETED) if host in LOOPBACK else ("*",)


def _model(service: Service, started: int) -> dict[str, Any]:
    return {
        "id": service.name,
        "object": "model",
        "created": started,
        "owned_by": "headrace",
        "max_model_len": service.context_length,
    }


def _check_key(request: HttpRequest, api_key: str | None) -> None:
    given = request.headers.get("authorization", "")
    if api_key is not None and not hmac.compare_digest(given.encode(), f"Bearer {api_key}".encode()):
        raise ApiError(401, "the API key is missing or wrong", "invalid_api_key")


async def _body(request: HttpRequest, service: Service) -> Any:
    """The JSON of a request, up to its greatest size and time."""
    from starlette.requests import ClientDisconnect

    limits = service.limits
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        # A web page may send any other type to a server on loopback without asking it first.
        raise ApiError(415, "the body must be of the type application/json")
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for part in request.stream():
                body += part
                if len(body) > limits.body_bytes:
                    raise ApiError(413, f"the body is over {limits.body_bytes:,} bytes")
    except TimeoutError:
        raise ApiError(408, f"the body did not come within {limits.body_seconds:g} s") from None
    except ClientDisconnect:
        raise ApiError(400, "the client went before the body was there") from None
    try:
        value = json.loads(body)
        # JSON may escape half of a surrogate pair, which is no text that a tokenizer could read.
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is not valid JSON: {error}") from None
    return value


def _check_stream(asked: Request) -> None:
    if asked.stream and asked.top_logprobs is not None:
        raise wrong("logprobs", "this server tells them only of answers that are not streamed", "unsupported_parameter")
