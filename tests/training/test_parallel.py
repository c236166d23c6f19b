"""Two gloo processes against one: the same losses, gradients and weights, with replicas and with shards."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.parallel_runs import MODELS, Run, kept_weights
from training import checkpoints
from training.distributed import World, torchrun_command

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes made of every scenario, in one start of them."""
    folder = tmp_path_factory.mktemp("parallel")
    for name in MODELS:
        Run(name, World()).to(2).write(folder / f"{name}-one")
    command = torchrun_command("tests.training.parallel_runs", [str(folder)], 2)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def facts(folder: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((folder / "facts.json").read_text())
    return facts


@pytest.fixture(scope="module")
def alone() -> dict[tuple[str, int], Run]:
    """The same steps in one process."""
    return {(name, step): Run(name, World()).to(step) for name in MODELS for step in (0, 3, 4)}


def assert_as_one(folder: Path, facts: dict[str, Any], label: str, reference: Run) -> None:
    # Losses and gradient norms of all steps; another order of sums is all that differs.
    assert facts[label]["losses"] == pytest.approx(reference.losses, abs=1e-5)
    assert facts[label]["evaluation"] == pytest.approx(reference.evaluate(), abs=1e-3)
    theirs = kept_weights(folder, label)
    for name, ours in reference.weights().items():
        torch.testing.assert_close(theirs[name], ours, atol=2e-5, rtol=0, msg=name)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("how", ["ddp", "fsdp", "recompute"])
def test_two_processes_train_as_one(folder: Path, facts: dict[str, Any], alone: Any, name: str, how: str) -> None:
    assert_as_one(folder, facts, f"{name}-{how}", alone[name, 3])


@pytest.mark.parametrize("name", MODELS)
def test_each_process_holds_about_half(facts: dict[str, Any], alone: Any, name: str) -> None:
    parameters = alone[name, 0].model.parameters_count()
    assert parameters / 2 <= facts[f"{name}-fsdp"]["share"] <= parameters / 2 * 1.01
    assert facts[f"{name}-fsdp"]["before"] == pytest.approx(alone[name, 0].evaluate(), abs=1e-3)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("how", ["ddp-resumed", "fsdp-resumed", "again"])
def test_two_processes_go_on(folder: Path, facts: dict[str, Any], alone: Any, name: str, how: str) -> None:
    """From a checkpoint of one process, and (again) from one that two wrote in shards."""
    assert_as_one(folder, facts, f"{name}-{how}", alone[name, 4])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_one_process_goes_on_where_two_began(folder: Path, alone: Any, facts: Any, name: str, how: str) -> None:
    run = Run(name, World()).resume(folder / f"{name}-two-{how}").to(4)
    assert run.losses == pytest.approx(alone[name, 4].losses, abs=1e-5)
    theirs = run.weights()
    for weight, ours in alone[name, 4].weights().items():
        torch.testing.assert_close(theirs[weight], ours, atol=2e-5, rtol=0, msg=weight)


@pytest.mark.parametrize("name", MODELS)
def test_a_sharded_checkpoint_is_like_any_other(folder: Path, facts: Any, name: str) -> None:
    ours, theirs = (folder / f"{name}-{how}" / "step-00000002" for how in ("two-ddp", "two-fsdp"))
    files = {path.name for path in ours.iterdir()}
    assert {path.name for path in theirs.iterdir()} == files
    assert "ranges" in json.loads((theirs / "trainer.json").read_text())["files"]["model.safetensors"]
    assert (theirs / "config.json").read_text() == (ours / "config.json").read_text()
    model, sharded = (checkpoints.load_model(path)[0] for path in (ours, theirs))
    factor = 0.5 if name == "shared" else 1.0  # that run keeps an average, here half of the weights
    for (key, whole), part in zip(model.named_parameters(), sharded.parameters(), strict=True):
        torch.testing.assert_close(part, whole * factor, atol=2e-5, rtol=0, msg=key)
    assert bool(checkpoints.load_state(theirs).weights) == (name == "shared")


def test_processes_agree(facts: dict[str, Any]) -> None:
    assert facts["world"] == {
        "agree": [True, False],
        "broadcast": [{"from": 0, "text": "é"}] * 2,
        "gather": [[], [1]],
    }


def test_processes_agree_on_damage_that_one_sees(facts: dict[str, Any]) -> None:
    first, second = facts["damaged"]
    assert first == second
    assert first[0].endswith("step-00000001")
    (problem,) = first[1]
    assert "step-00000002/trainer.safetensors: its content is damaged" in problem


def test_a_disk_that_is_full_for_one_process_is_told_in_all(facts: dict[str, Any]) -> None:
    for message, names, later in facts["full"]:
        assert "step-00000002: cannot be written ([Errno 27] File too large); free some space" in message
        assert names == ["step-00000001"]
        assert later == ["step-00000001", "step-00000003"]


def test_one_process_is_left_as_it_is() -> None:
    run = Run("tied", World(), "fsdp")
    assert run.loss.model is run.model
