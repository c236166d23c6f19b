"""Entry point: `python -m training.finetuning CONFIG.json [--watch-stdin]`."""

from __future__ import annotations

from training.finetuning import main
from training.job_process import start

if __name__ == "__main__":
    start("training.finetuning", "a training.finetuning.config.FinetuningConfig and its folders", main)
