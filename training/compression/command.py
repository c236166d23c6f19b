"""`python -m training.compression CONFIG.json`: compress, and tell of each part as it is done."""

from __future__ import annotations

from training.compression.job import run
from training.job_process import follow


def main(config_path: str) -> int:
    """Compress as a JSON file says; return the exit code: 0, or 2 for a wrong configuration or unreadable data."""
    return follow(run, config_path)
