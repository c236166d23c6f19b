import numpy as np
import pytest

from training.config import ScheduleConfig
from training.schedules import factor


def curve(config: ScheduleConfig, steps: int) -> list[float]:
    return [factor(config, step, steps) for step in range(steps)]


def test_trapezoid_warms_up_holds_and_falls_to_the_floor() -> None:
    config = ScheduleConfig(name="trapezoid", warmup_steps=4, decay_fraction=0.5, floor=0.1)
    values = curve(config, 20)
    assert values[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert values[4:11] == [1.0] * 7
    assert np.diff(values[10:]) == pytest.approx([-0.09] * 9)
    assert factor(config, 20, 20) == pytest.approx(0.1)


def test_cosine_follows_its_formula() -> None:
    config = ScheduleConfig(name="cosine", warmup_steps=0, floor=0.2)
    expected = 0.2 + 0.8 * (1 + np.cos(np.pi * np.arange(10) / 10)) / 2
    assert curve(config, 10) == pytest.approx(expected.tolist())


def test_constant_holds() -> None:
    assert curve(ScheduleConfig(name="constant", warmup_steps=1), 4) == [0.5, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("name", ["trapezoid", "cosine", "constant"])
@pytest.mark.parametrize(("warmup", "decay"), [(0, 0.0), (0, 1.0), (50, 1.0), (10, 1.0)])
def test_factors_stay_in_range_at_the_edges(name: str, warmup: int, decay: float) -> None:
    config = ScheduleConfig(name=name, warmup_steps=warmup, decay_fraction=decay, floor=0.05)  # type: ignore[arg-type]
    assert all(0 < value <= 1 for value in curve(config, 10))
