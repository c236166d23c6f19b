"""Learning-rate schedules: pure functions of the step, as a factor on the peak rate."""

from __future__ import annotations

import math

from training.config import ScheduleConfig


def factor(config: ScheduleConfig, step: int, steps: int) -> float:
    """Factor for the update numbered `step` (0-based) of `steps`: in (0, 1), and not below the floor after warm-up.

    Linear warm-up to 1 over `warmup_steps`; from there `wsd` holds and falls linearly over the last `decay_fraction` of
    all steps (Hu et al. 2024, MiniCPM, section 4: warm-up, stable, decay); `cosine` falls as half a cosine (Loshchilov
    & Hutter 2017, equation 5) and `linear` linearly, over all that is left; `inverse_sqrt` falls with the root of the
    step (Vaswani et al. 2017, equation 3), down to the floor; `constant` holds. The others would reach the floor at the
    update that follows the last one.
    """
    if step < config.warmup_steps:
        return (step + 1) / (config.warmup_steps + 1)
    if config.name == "inverse_sqrt":
        return max(config.floor, math.sqrt((config.warmup_steps + 1) / (step + 1)))
    return config.floor + (1 - config.floor) * _remaining(config, step, steps)


def _remaining(config: ScheduleConfig, step: int, steps: int) -> float:
    """Share of the way from the floor up to the peak, after warm-up."""
    left = max(0, steps - step)
    share = left / max(1, steps - config.warmup_steps)
    if config.name == "linear":
        return share
    if config.name == "cosine":
        return 0.5 * (1 - math.cos(math.pi * share))
    if config.name == "wsd" and config.decay_fraction:
        return min(1.0, left / max(1, round(config.decay_fraction * steps)))
    return 1.0
