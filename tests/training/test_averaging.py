from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from training.averaging import WeightAverage


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def moved(model: nn.Linear, seed: int) -> torch.Tensor:
    torch.manual_seed(seed)
    with torch.no_grad():
        model.weight.normal_()
    return model.weight.detach().double().clone()


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.9999])
def test_it_is_the_weighted_mean_of_what_was_seen(decay: float) -> None:
    model = nn.Linear(3, 2, bias=False)
    average = WeightAverage(model, decay)
    seen = []
    for step in range(6):
        seen.append(moved(model, step))
        average.update(torch.tensor(False) if step % 2 else None)
    shares = torch.tensor([decay ** (5 - step) for step in range(6)], dtype=torch.float64)
    expected = (torch.stack(seen) * (shares / shares.sum()).view(-1, 1, 1)).sum(0)
    assert torch.allclose(average.state_tensors()["weight"].double(), expected, atol=1e-6)


def test_before_the_first_update_it_is_the_model() -> None:
    model = nn.Linear(3, 2)
    average = WeightAverage(model, 0.9)
    start = model.weight.detach().clone()
    moved(model, 1)
    average.update(torch.tensor(True))
    assert torch.equal(average.state_tensors()["weight"], start)
    moved(model, 2)
    average.update()
    assert torch.equal(average.state_tensors()["weight"], model.weight)


def test_a_skipped_update_changes_not_a_bit() -> None:
    model = nn.Linear(3, 2)
    average = WeightAverage(model, 0.9)
    for step in range(3):
        moved(model, step)
        average.update()
    before = {name: tensor.clone() for name, tensor in average.state_tensors().items()}
    moved(model, 9)
    average.update(torch.tensor(True))
    after = average.state_tensors()
    assert before.keys() == after.keys() == {"weight", "bias", "updates"}
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_it_goes_into_the_model_and_out_again_whatever_happens() -> None:
    model = nn.Linear(3, 2)
    average = WeightAverage(model, 0.9)
    for step in range(2):
        moved(model, step)
        average.update()
    own, mean = model.weight.detach().clone(), average.state_tensors()["weight"].clone()
    assert not torch.equal(own, mean)
    place = model.weight.data_ptr()

    def fail_inside() -> None:
        with average.applied():
            assert torch.equal(model.weight, mean)
            raise RuntimeError("within")

    with pytest.raises(RuntimeError, match="within"):
        fail_inside()
    assert torch.equal(model.weight, own)
    assert torch.equal(average.state_tensors()["weight"], mean)
    assert model.weight.data_ptr() == place


def test_it_goes_on_where_it_stopped() -> None:
    model = nn.Linear(3, 2)
    one = WeightAverage(model, 0.9)
    for step in range(3):
        moved(model, step)
        one.update()
    other = WeightAverage(model, 0.9)
    other.load_state_tensors(one.state_tensors())
    moved(model, 7)
    for average in (one, other):
        average.update()
    assert all(torch.equal(value, other.state_tensors()[name]) for name, value in one.state_tensors().items())
    with pytest.raises(ValueError, match=r"'bias' is missing"):
        other.load_state_tensors({"weight": torch.zeros(2, 3), "updates": torch.zeros(())})
    with pytest.raises(ValueError, match=r"'bias' has shape \(3,\)"):
        other.load_state_tensors({**one.state_tensors(), "bias": torch.zeros(3)})
