"""Entry point: `python -m training.suites CONFIG.json [--watch-stdin]`."""

from __future__ import annotations

from training.job_process import start
from training.suites import main

if __name__ == "__main__":
    start("training.suites", "what training.suites.judging.run takes", main)
