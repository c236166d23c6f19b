"""Tracking in MLflow that never stops a training: see `sender`."""

from training.tracking.job_sender import JobSender
from training.tracking.location import Location, find_location
from training.tracking.registry import registered_version, resolve_model
from training.tracking.sender import Sender
from training.tracking.study_sender import StudySender

__all__ = ["JobSender", "Location", "Sender", "StudySender", "find_location", "registered_version", "resolve_model"]
