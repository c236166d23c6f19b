"""Entry point: `python -m training.compression CONFIG.json [--watch-stdin]`."""

from __future__ import annotations

from training.compression import main
from training.job_process import start

if __name__ == "__main__":
    start("training.compression", "a training.compression.job.CompressionRun", main)
