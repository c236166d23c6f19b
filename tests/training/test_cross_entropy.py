import pytest
import torch
import torch.nn.functional as F

from training.objectives import cross_entropy
from training.objectives.cross_entropy import IGNORED, linear_cross_entropy, token_losses


@pytest.fixture(params=[3, 7, 100])
def problem(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states (7, 5), weights (11, 5) and targets (7,), two of them ignored, cut in chunks of several sizes."""
    monkeypatch.setitem(cross_entropy.CHUNK_POSITIONS, "cpu", request.param)
    torch.manual_seed(0)
    hidden = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(11, 5, dtype=torch.float64, requires_grad=True)
    return hidden, weight, torch.tensor([1, 2, IGNORED, 10, 0, IGNORED, 3])


def test_loss_and_gradients_are_those_of_torch(problem: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
    hidden, weight, targets = problem
    ours = linear_cross_entropy(hidden, weight, targets)
    theirs = F.cross_entropy(hidden @ weight.T, targets, ignore_index=IGNORED)
    assert torch.allclose(ours, theirs)
    # A factor on the loss, as gradient accumulation has it, must reach the gradients.
    our_gradients = torch.autograd.grad(ours * 0.3, (hidden, weight))
    their_gradients = torch.autograd.grad(theirs * 0.3, (hidden, weight))
    assert all(torch.allclose(a, b) for a, b in zip(our_gradients, their_gradients, strict=True))
    assert torch.autograd.gradcheck(lambda h, w: linear_cross_entropy(h, w, targets), (hidden, weight))


def test_token_losses_are_those_of_torch(problem: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
    hidden, weight, targets = problem
    ours = token_losses(hidden, weight.float(), targets)
    theirs = F.cross_entropy(hidden @ weight.T, targets, ignore_index=IGNORED, reduction="none")
    assert torch.allclose(ours.double(), theirs, atol=1e-5)
    assert not ours.requires_grad


def test_bf16_autocast_stays_near_float32() -> None:
    torch.manual_seed(0)
    hidden = torch.randn(600, 64, requires_grad=True)
    weight = torch.randn(500, 64).mul_(0.2).requires_grad_()
    targets = torch.randint(0, 500, (600,))
    exact = F.cross_entropy(hidden @ weight.T, targets)
    exact_gradients = torch.autograd.grad(exact, (hidden, weight))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = linear_cross_entropy(hidden, weight, targets)
    assert rounded.dtype == torch.float32
    assert float(rounded) == pytest.approx(float(exact), rel=1e-3)
    for ours, theirs in zip(torch.autograd.grad(rounded, (hidden, weight)), exact_gradients, strict=True):
        assert ours.dtype == torch.float32
        assert float((ours - theirs).norm() / theirs.norm()) < 0.01


def test_nothing_to_predict_is_no_loss() -> None:
    hidden = torch.randn(3, 4, requires_grad=True)
    loss = linear_cross_entropy(hidden, torch.randn(5, 4), torch.full((3,), IGNORED))
    loss.backward()
    assert float(loss) == 0
    assert hidden.grad is not None
    assert not hidden.grad.any()
