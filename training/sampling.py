"""How text is drawn from a model; without torch, so that trackers and recipes can name it."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class SamplingConfig:
    """How the next token is chosen. The limits of top_k, then top_p, are applied after the temperature."""

    max_new_tokens: int = 100
    temperature: float = 0.8
    """0 is greedy: always the likeliest token, the one of the lowest id at a tie."""
    top_k: int = 50
    """Choose among the likeliest k only; 0: no limit."""
    top_p: float = 1.0
    """Choose among the fewest tokens that hold this much probability (nucleus sampling, Holtzman et al. 2020)."""
    seed: int = 1

    def __post_init__(self) -> None:
        if self.max_new_tokens < 0:
            raise ValueError(f"max_new_tokens must be at least 0, got {self.max_new_tokens}")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ValueError(f"temperature must be 0 (greedy) or above, got {self.temperature}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be at least 0 (no limit), got {self.top_k}")
        if not 0 <= self.top_p <= 1:
            raise ValueError(f"top_p must lie in [0, 1], got {self.top_p}")
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")
