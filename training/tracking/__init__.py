"""Tracking in MLflow that never stops a training: see `sender`."""

from training.tracking.location import Location, find_location
from training.tracking.registry import resolve_model
from training.tracking.sender import Sender

__all__ = ["Location", "Sender", "find_location", "resolve_model"]
