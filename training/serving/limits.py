"""What one server takes upon itself."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits on length, queue and time; a choice is one continuation of one prompt."""

    slots: int = 4
    """Choices that are written at a time, a token each in turn; each has a cache of keys and values."""
    queue: int = 64
    """Choices that may wait; a request that would be beyond is refused at once (429)."""
    queue_seconds: float = 60.0
    """How long one may wait before it is given up (503)."""
    request_seconds: float = 300.0
    """How long a choice may be written; then it ends as at its greatest length."""
    max_new_tokens: int = 4096
    """The most that a request may ask for, and what it gets that asks for nothing where the context allows it."""
    choices: int = 16
    """Choices of one request: prompts times `n`."""
    body_bytes: int = 1 << 20
    """Largest request (413)."""
    body_seconds: float = 30.0
    """How long a request may take to arrive (408)."""

    def __post_init__(self) -> None:
        for name in ("slots", "max_new_tokens", "choices", "body_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.queue < 0:
            raise ValueError(f"queue must be at least 0, got {self.queue}")
        for name in ("queue_seconds", "request_seconds", "body_seconds"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be above 0, got {value}")
