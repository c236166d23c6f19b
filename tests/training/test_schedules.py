import math
import warnings

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler

from training.config import ScheduleConfig
from training.schedules import factor

NAMES = ["wsd", "cosine", "linear", "inverse_sqrt", "constant"]


def curve(config: ScheduleConfig, steps: int) -> list[float]:
    return [factor(config, step, steps) for step in range(steps)]


def torchs(steps: int, *schedulers: tuple[type, dict[str, float]], milestones: tuple[int, ...] = ()) -> list[float]:
    """The rates of torch's own schedulers, one after the other, from a peak of 1."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    made = [cls(optimizer, **settings) for cls, settings in schedulers]
    scheduler = lr_scheduler.SequentialLR(optimizer, made, list(milestones))
    rates = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(steps):
            rates.append(scheduler.get_last_lr()[0])
            scheduler.step()
    return rates


def warm_up(steps: int) -> tuple[type, dict[str, float]]:
    return lr_scheduler.LinearLR, {"start_factor": 1 / (steps + 1), "total_iters": steps}


def falling(floor: float, steps: int) -> tuple[type, dict[str, float]]:
    return lr_scheduler.LinearLR, {"start_factor": 1.0, "end_factor": floor, "total_iters": steps}


def test_wsd_warms_up_holds_and_falls_to_the_floor() -> None:
    config = ScheduleConfig(name="wsd", warmup_steps=4, decay_fraction=0.5, floor=0.1)
    values = curve(config, 20)
    assert values[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert values[4:11] == [1.0] * 7
    assert np.diff(values[10:]) == pytest.approx([-0.09] * 9)
    assert factor(config, 20, 20) == pytest.approx(0.1)


def test_linear_and_wsd_are_those_of_torch() -> None:
    config = ScheduleConfig(name="linear", warmup_steps=5, floor=0.2)
    assert curve(config, 30) == pytest.approx(torchs(30, warm_up(5), falling(0.2, 25), milestones=(5,)))
    config = ScheduleConfig(name="wsd", warmup_steps=5, floor=0.2, decay_fraction=0.4)
    hold = (lr_scheduler.ConstantLR, {"factor": 1.0})
    assert curve(config, 30) == pytest.approx(torchs(30, warm_up(5), hold, falling(0.2, 12), milestones=(5, 18)))


def test_cosine_is_that_of_torch() -> None:
    config = ScheduleConfig(name="cosine", warmup_steps=5, floor=0.2)
    cosine = (lr_scheduler.CosineAnnealingLR, {"T_max": 25, "eta_min": 0.2})
    assert curve(config, 30) == pytest.approx(torchs(30, warm_up(5), cosine, milestones=(5,)))


def test_inverse_sqrt_is_the_formula_of_vaswani_et_al_down_to_the_floor() -> None:
    warmup = 9
    formula = [min(n**-0.5, n * (warmup + 1) ** -1.5) * math.sqrt(warmup + 1) for n in range(1, 101)]
    config = ScheduleConfig(name="inverse_sqrt", warmup_steps=warmup)
    assert curve(config, 100) == pytest.approx(formula)
    floored = ScheduleConfig(name="inverse_sqrt", warmup_steps=warmup, floor=0.5)
    assert curve(floored, 100)[9:] == pytest.approx(np.maximum(formula, 0.5)[9:].tolist())


def test_constant_holds() -> None:
    assert curve(ScheduleConfig(name="constant", warmup_steps=1), 4) == [0.5, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("warmup", "decay"), [(0, 0.0), (0, 1.0), (50, 1.0), (10, 1.0)])
def test_factors_stay_in_range_at_the_edges(name: str, warmup: int, decay: float) -> None:
    config = ScheduleConfig(name=name, warmup_steps=warmup, decay_fraction=decay, floor=0.05)  # type: ignore[arg-type]
    assert all(0 < value <= 1 for value in curve(config, 10))
    assert all(factor(config, step, 10) >= 0.05 for step in range(warmup, 80))
