"""Learning-rate schedules: pure functions of the step, as a factor on the peak rate."""

from __future__ import annotations

import math

from training.config import ScheduleConfig


def factor(config: ScheduleConfig, step: int, steps: int) -> float:
    """Factor in [floor, 1] for the update numbered `step` (0-based) of `steps`.

    Linear warm-up to 1 over `warmup_steps`, and then: `trapezoid` holds and falls linearly over the last
    `decay_fraction` of the steps (Hu et al. 2024, MiniCPM, section 4: warm-up, stable, decay); `cosine` falls as half a
    cosine (Loshchilov & Hutter 2017, equation 5); `constant` holds.
    """
    if step < config.warmup_steps:
        return (step + 1) / (config.warmup_steps + 1)
    if config.name == "constant":
        return 1.0
    if config.name == "cosine":
        progress = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
        remaining = 0.5 * (1 + math.cos(math.pi * progress))
    else:
        decay_steps = max(1, round(config.decay_fraction * steps))
        remaining = min(1.0, (steps - step) / decay_steps) if config.decay_fraction else 1.0
    return config.floor + (1 - config.floor) * remaining
