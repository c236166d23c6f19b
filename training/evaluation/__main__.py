"""Entry point: `python -m training.evaluation CONFIG.json [--watch-stdin]`."""

from __future__ import annotations

from training.evaluation import main
from training.job_process import start

if __name__ == "__main__":
    start("training.evaluation", "a training.evaluation.evaluate.EvaluationRun", main)
