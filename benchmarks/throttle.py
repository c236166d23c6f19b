"""A server on loopback that gives the files of a folder at so many bytes a second, to all clients together."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType

BLOCK_BYTES = 16_384
"""A client that looks whether a file is there and hangs up costs two of these; smaller ones keep a core busy."""


CREDIT_SECONDS = 0.005
"""What a thread that woke too late may catch up; without it the rate would be lower than it says."""


class _Bucket:
    """Hands out the times at which bytes may go, so that all of them keep to the rate."""

    def __init__(self, bytes_per_second: float) -> None:
        self._seconds_per_byte = 1 / bytes_per_second
        self._lock = threading.Lock()
        self._free = 0.0
        self.served = 0

    def wait_for(self, size: int) -> None:
        """Wait until so many bytes may be sent."""
        with self._lock:
            self._free = max(self._free, time.monotonic() - CREDIT_SECONDS) + size * self._seconds_per_byte
            self.served += size
            due = self._free
        time.sleep(max(0.0, due - time.monotonic()))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, folder: Path, bucket: _Bucket, *arguments: object) -> None:
        self._folder, self._bucket = folder, bucket
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""

    def _answer(self, body: bool) -> None:
        path = self._folder / Path(self.path).name
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first, last = 0, len(data) - 1
        if asked:
            first, last = int(asked[1]), min(last, int(asked[2] or last))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{path.stat().st_mtime_ns}"')
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        if body:
            with contextlib.suppress(ConnectionError):
                self._send(data[first : last + 1])

    def _send(self, data: bytes) -> None:
        for at in range(0, len(data), BLOCK_BYTES):
            block = data[at : at + BLOCK_BYTES]
            self._bucket.wait_for(len(block))
            self.wfile.write(block)


class ThrottledFiles:
    """The server as a context; it gives its address."""

    def __init__(self, folder: Path, bytes_per_second: float) -> None:
        self._bucket = _Bucket(bytes_per_second)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, folder, self._bucket))
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def served_bytes(self) -> int:
        """Bytes sent so far."""
        return self._bucket.served

    def __enter__(self) -> str:
        self._thread.start()
        return f"http://127.0.0.1:{self._server.server_port}"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
