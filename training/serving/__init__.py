"""Serving a model: OpenAI's API over HTTP, with limits on length, queue and time.

The way of a request: `server.py` (HTTP) -> `requests.py` (JSON to a dataclass) -> `service.py` (texts to ids) ->
`engine.py` (queue and slots) -> `writing.py` (one choice) -> `delivery.py` and `answers.py` (back to the client).
"""

from training.serving.conversation import Conversation
from training.serving.engine import Engine
from training.serving.errors import ApiError
from training.serving.limits import Limits
from training.serving.run import Server, serve
from training.serving.server import create_app
from training.serving.service import Service

__all__ = ["ApiError", "Conversation", "Engine", "Limits", "Server", "Service", "create_app", "serve"]
