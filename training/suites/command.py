"""`python -m training.suites CONFIG.json`: judge, and tell of each task as it is done."""

from __future__ import annotations

from training.job_process import follow
from training.suites.judging import run


def main(config_path: str) -> int:
    """Judge as a JSON file says; return the exit code: 0, or 2 for a wrong configuration or unreadable data."""
    return follow(run, config_path)
