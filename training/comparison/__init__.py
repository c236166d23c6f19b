"""Comparisons of models on the same held-out documents: which differences are more than chance.

NumPy and SciPy alone; no torch.
"""

from training.comparison.differences import Difference, Settings, Verdict, compare, compare_metrics, same
from training.comparison.scores import Held, Scores

__all__ = ["Difference", "Held", "Scores", "Settings", "Verdict", "compare", "compare_metrics", "same"]
