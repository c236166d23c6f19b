"""Evaluation of a checkpoint: held-out perplexity and bits per byte, count models of the same tokens, minimal pairs."""

from training.evaluation.command import main
from training.evaluation.evaluate import EvaluationRun, flat_metrics, run

__all__ = ["EvaluationRun", "flat_metrics", "main", "run"]
