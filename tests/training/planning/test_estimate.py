"""Plans, what they refuse, and the micro-batch that fits."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.planning.test_memory import make_run, model
from tests.training.test_objective_runs import run_of
from training import objectives
from training.config import TrainingRun
from training.distributed import World
from training.models import build
from training.models.transformer import Transformer
from training.planning import DeviceSpec, estimate_memory, find_device_batch_size, plan
from training.planning.devices import DEVICES
from training.planning.microbatch import divisors_from, largest_that_fits
from training.trainer import setting_of

SHAPE = model("gpt2", layers=2, width=64)


def cpu(memory: int) -> DeviceSpec:
    return DeviceSpec("a small CPU", "cpu", memory, {"fp32": 1e12})


def run(**training: Any) -> TrainingRun:
    return make_run(SHAPE, **{"batch_size": 12, "steps": 50, **training})


def test_time_and_cost_follow_from_flops_peak_and_mfu() -> None:
    planned = plan(run(), cpu(10**12), 2, mfu=0.5, price=3.0)
    flops = Transformer(SHAPE, 2048).flops_per_token(128)
    tokens = 50 * 12 * 128
    assert (planned.tokens, planned.flops_per_token) == (tokens, flops)
    assert planned.hours == pytest.approx(tokens * flops / (0.5 * 1e12 * 2) / 3600)
    assert planned.cost == pytest.approx(planned.hours * 2 * 3.0)
    assert planned.parameters == sum(planned.parameters_by_part.values())
    assert plan(run(), cpu(10**12)).mfu_source == "assumed"


def test_without_a_peak_time_is_unknown_until_it_is_measured() -> None:
    unknown = dataclasses.replace(cpu(10**12), peak_flops={})
    assert plan(run(), unknown, price=1.0).hours is None
    measured = plan(run(), unknown, price=1.0, seconds_per_step=36.0)
    assert (measured.hours, measured.cost, measured.mfu_source) == (0.5, 0.5, "measured")


def test_what_does_not_fit_is_refused_with_changes_that_do() -> None:
    needed = plan(run(), cpu(10**12)).memory.total
    device = cpu(int(0.7 * needed))
    planned = plan(run(), device)
    assert not planned.fits
    first = planned.changes[0]["settings"]
    assert list(first) == ["device_batch_size"]
    for change in planned.changes:
        changed = run(**change["settings"])
        again = plan(changed, device)
        assert again.fits
        assert again.memory.total == change["memory"]


def test_sharding_is_proposed_where_the_parameters_alone_are_too_much() -> None:
    shape = model("gpt2", layers=4, width=192, context_length=32)
    large = make_run(shape, batch_size=8)
    device = cpu(estimate_memory(large, cpu(10**12), 1, 1).whole["parameters"] * 3)
    planned = plan(large, device)
    (change,) = planned.changes
    settings = dict(change["settings"])
    devices = settings.pop("devices")
    assert settings["parallel"] == "fsdp"
    assert plan(make_run(shape, **{"batch_size": 8, **settings}), device, devices).fits


def test_the_largest_micro_batch_that_fits_is_found() -> None:
    device = cpu(10**12)
    by_size = {size: estimate_memory(run(), device, 1, size).total for size in divisors_from(12, 12)}
    for limit in (by_size[12], by_size[6] + 1, by_size[4], by_size[3] + 1, by_size[1]):
        found = largest_that_fits(run(), device, 1, limit)
        assert found is not None
        assert found.device_batch_size == max(size for size, total in by_size.items() if total <= limit)
    assert largest_that_fits(run(), device, 1, by_size[1] - 1) is None


def test_the_micro_batch_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    from training.planning import microbatch

    assert find_device_batch_size(run(), World(), torch.device("cpu")) == 12
    monkeypatch.setattr(microbatch, "free_memory", lambda device: 10**6)
    with pytest.raises(ValueError, match=r"not even one sequence.*training\.recompute.*training\.parallel"):
        find_device_batch_size(run(), World(), torch.device("cpu"))


def test_processes_count_on_the_fullest_device() -> None:
    class BesideAFullDevice(World):
        def gather(self, document: Any) -> list[Any]:
            return [document, 10**6]

    with pytest.raises(ValueError, match="not even one sequence"):
        find_device_batch_size(run(), BesideAFullDevice(size=2), torch.device("cpu"))


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="12 does not divide among 5"):
        plan(run(), DEVICES["h100"], 5)
    with pytest.raises(ValueError, match="device_batch_size 5 does not divide"):
        plan(run(device_batch_size=5), cpu(10**12))


@pytest.mark.parametrize("kind", ["bert", "electra", "xlnet", "t5", "unilm", "simcse"])
def test_a_plan_and_a_training_count_the_same_work(kind: str, tmp_path: Path) -> None:
    wanted = run_of(kind, tmp_path)
    built = build(wanted.model, wanted.model_vocabulary)
    task = objectives.build(wanted.objective, setting_of(wanted))
    found = plan(wanted, cpu(10**12))
    assert found.flops_per_token == task.flops_per_token(built, wanted.sequence_length)
    assert found.parameters == sum(found.parameters_by_part.values()) == built.parameters_count()
    assert found.memory.total > 0
