"""A server process: an address, a model, and an end on SIGINT or SIGTERM."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

from training.serving.engine import Engine
from training.serving.server import create_app, host_names
from training.serving.service import Service

API_KEY = "HEADRACE_API_KEY"
"""Environment variable of the key that clients must bear; without it none is asked for."""
_CONNECTIONS = 1024
_SECONDS_TO_END = 5


class Server:
    """A server that listens from the beginning on; `run` answers. Port 0 takes any that is free.

    Raises ValueError for an address that cannot be listened on, and where starlette or uvicorn is not installed.
    """

    def __init__(self, service: Service, host: str = "127.0.0.1", port: int = 8000) -> None:
        self.engine = Engine(service.generator, service.limits)
        app = create_app(service, self.engine, os.environ.get(API_KEY) or None, host_names(host))
        self._listener = _listen(host, port)
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self._listener.getsockname()[1]}/v1"
        import uvicorn

        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                server_header=False,
                limit_concurrency=_CONNECTIONS,
                timeout_graceful_shutdown=_SECONDS_TO_END,
            )
        )

    def run(self) -> None:
        """Answer until the process is told to end, or `stop` is called."""
        with self._listener:
            self._server.run(sockets=[self._listener])

    def stop(self) -> None:
        """Let `run` return; usable from another thread."""
        self._server.should_exit = True


def serve(
    service: Service, host: str = "127.0.0.1", port: int = 8000, ready: Callable[[str], None] | None = None
) -> None:
    """Run a server; `ready` is called with its URL once it listens. Raises ValueError as Server does."""
    server = Server(service, host, port)
    if ready is not None:
        ready(server.url)
    server.run()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(_CONNECTIONS)
    except (OSError, OverflowError) as error:
        listener.close()
        raise ValueError(f"cannot listen on {host}, port {port}: {getattr(error, 'strerror', None) or error}") from None
    return listener
