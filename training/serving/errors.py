"""What goes wrong with a request, as OpenAI's clients read it."""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """An answer that is an error: an HTTP status, and the object that OpenAI's clients turn into an exception."""

    def __init__(
        self, status: int, message: str, code: str | None = None, param: str | None = None, kind: str = ""
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.kind = kind or ("invalid_request_error" if status < 500 else "server_error")

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def wrong(param: str, message: str, code: str | None = None) -> ApiError:
    """A request whose field `param` is wrong."""
    return ApiError(400, f"{param}: {message}", code, param)
