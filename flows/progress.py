"""Progress of long work: stages and child processes publish events here, terminals and Prefect listen.

An event is a dict with `stage`, and `done`, `total` and `unit` where they are known; the rest is numbers or text for
people, by name (`documents`, `megabytes_per_second`, `loss`, `tokens_per_second`, ...).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from training.events import duration

Event = dict[str, Any]
Listener = Callable[[Event], None]

_listeners: list[Listener] = []
_lock = threading.Lock()


def publish(event: Event) -> None:
    """Hand an event to every listener, in the calling thread."""
    with _lock:
        listeners = list(_listeners)
    for listener in listeners:
        listener(event)


@contextlib.contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Have a listener called while the block runs."""
    with _lock:
        _listeners.append(listener)
    try:
        yield
    finally:
        with _lock:
            _listeners.remove(listener)


_SHARES = {"mfu": "MFU", "data_wait_share": "waiting for data"}


def format_quantity(name: str, value: Any) -> str:
    """Return a number of an event as people write it, with its unit from the name."""
    if name == "peak_memory_megabytes":
        return f"{value:,.0f} MB peak"
    if name == "memory_bytes":
        return f"{value / 1e9:.1f} GB"
    if name in ("mfu", "data_wait_share"):
        return f"{_SHARES[name]} {value:.1%}"
    if name == "remaining_seconds":
        return f"{duration(value)} left"
    if name == "cost":
        return f"cost {value:.2f}"
    label = name.replace("_per_second", "/s").replace("_", " ")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"{label} {value}"
    if name in ("loss", "validation_loss", "learning_rate", "gradient_norm"):
        return f"{label} {value:.4g}"
    if isinstance(value, float) and abs(value) < 100:
        return f"{value:.1f} {label}"
    return f"{value:,.0f} {label}"
