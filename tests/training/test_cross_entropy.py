from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from training.objectives import cross_entropy
from training.objectives.cross_entropy import IGNORED, linear_cross_entropy, token_losses

VARIANTS = [(0.0, 0.0), (0.1, 0.0), (0.0, 0.05), (0.2, 0.3)]
FORMS = [pytest.param(True, id="chunks"), pytest.param(False, id="whole")]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def reference(hidden: Tensor, weight: Tensor, targets: Tensor, smoothing: float = 0.0, z_loss: float = 0.0) -> Tensor:
    logits = hidden @ weight.T
    squares = logits.exp().sum(1).log()[targets != IGNORED].square()
    return F.cross_entropy(logits, targets, ignore_index=IGNORED, label_smoothing=smoothing) + z_loss * squares.mean()


@pytest.fixture(params=[3, 7, 100])
def problem(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states (7, 5), weights (11, 5) and targets (7,), two of them ignored, cut in chunks of several sizes."""
    monkeypatch.setitem(cross_entropy.CHUNK_POSITIONS, "cpu", request.param)
    torch.manual_seed(0)
    hidden = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(11, 5, dtype=torch.float64, requires_grad=True)
    return hidden, weight, torch.tensor([1, 2, IGNORED, 10, 0, IGNORED, 3])


@pytest.mark.parametrize("chunks", FORMS)
@pytest.mark.parametrize(("smoothing", "z_loss"), VARIANTS)
def test_loss_and_gradients_are_those_of_torch(
    problem: tuple[Tensor, Tensor, Tensor], smoothing: float, z_loss: float, chunks: bool
) -> None:
    hidden, weight, targets = problem

    def ours(h: Tensor, w: Tensor) -> Tensor:
        return linear_cross_entropy(h, w, targets, label_smoothing=smoothing, z_loss=z_loss, chunks=chunks)

    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        h, w = hidden.detach().to(dtype).requires_grad_(), weight.detach().to(dtype).requires_grad_()
        loss, expected = ours(h, w), reference(hidden, weight, targets, smoothing, z_loss)
        assert loss.dtype == dtype
        assert torch.allclose(loss.double(), expected, rtol=tolerance)
        # A factor on the loss, as gradient accumulation has it, must reach the gradients.
        our_gradients = torch.autograd.grad(loss * 0.3, (h, w))
        their_gradients = torch.autograd.grad(expected * 0.3, (hidden, weight))
        for a, b in zip(our_gradients, their_gradients, strict=True):
            assert torch.allclose(a.double(), b, atol=tolerance)
    assert torch.autograd.gradcheck(ours, (hidden, weight))


def test_token_losses_are_those_of_torch(problem: tuple[Tensor, Tensor, Tensor]) -> None:
    hidden, weight, targets = problem
    ours = token_losses(hidden, weight.float(), targets)
    theirs = F.cross_entropy(hidden @ weight.T, targets, ignore_index=IGNORED, reduction="none")
    assert torch.allclose(ours.double(), theirs, atol=1e-5)
    assert not ours.requires_grad


@pytest.mark.parametrize("chunks", FORMS)
@pytest.mark.parametrize(("smoothing", "z_loss"), [(0.0, 0.0), (0.1, 1e-3)])
def test_bf16_autocast_stays_near_float32(smoothing: float, z_loss: float, chunks: bool) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(600, 64, requires_grad=True)
    weight = torch.randn(500, 64).mul_(0.2).requires_grad_()
    targets = torch.randint(0, 500, (600,))
    targets[::7] = IGNORED
    exact = reference(hidden, weight, targets, smoothing, z_loss)
    exact_gradients = torch.autograd.grad(exact, (hidden, weight))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = linear_cross_entropy(hidden, weight, targets, label_smoothing=smoothing, z_loss=z_loss, chunks=chunks)
    assert rounded.dtype == torch.float32
    assert float(rounded.detach()) == pytest.approx(float(exact.detach()), rel=1e-3)
    for ours, theirs in zip(torch.autograd.grad(rounded, (hidden, weight)), exact_gradients, strict=True):
        assert ours.dtype == torch.float32
        assert float((ours - theirs).norm() / theirs.norm()) < 0.01


@pytest.mark.parametrize("chunks", FORMS)
@pytest.mark.parametrize(("smoothing", "z_loss"), [(0.0, 0.0), (0.1, 0.1)])
def test_nothing_to_predict_is_no_loss(smoothing: float, z_loss: float, chunks: bool) -> None:
    hidden, weight = torch.randn(3, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    targets = torch.full((3,), IGNORED)
    loss = linear_cross_entropy(hidden, weight, targets, label_smoothing=smoothing, z_loss=z_loss, chunks=chunks)
    gradients = torch.autograd.grad(loss, (hidden, weight))
    assert float(loss.detach()) == 0
    assert not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("chunks", FORMS)
@pytest.mark.parametrize(("smoothing", "z_loss"), [(0.0, 0.0), (0.1, 0.1)])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_what_is_no_number_shows_in_the_loss_and_the_gradient(
    value: float, smoothing: float, z_loss: float, chunks: bool, precision: torch.dtype
) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(40, 8)
    hidden[17, 3] = value
    hidden.requires_grad_()
    weight = torch.randn(50, 8)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        loss = linear_cross_entropy(
            hidden, weight, torch.randint(0, 50, (40,)), label_smoothing=smoothing, z_loss=z_loss, chunks=chunks
        )
    (gradient,) = torch.autograd.grad(loss, hidden)
    assert not torch.isfinite(loss)
    assert not torch.isfinite(gradient.norm())


@pytest.mark.parametrize("chunks", FORMS)
def test_it_can_be_compiled_as_one_graph(chunks: bool) -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(20, 6, requires_grad=True), torch.randn(9, 6, requires_grad=True)
    targets = torch.randint(0, 9, (20,))
    targets[4] = IGNORED

    def loss(h: Tensor, w: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return linear_cross_entropy(h, w, targets, label_smoothing=0.1, z_loss=1e-2, chunks=chunks)

    plain, compiled = loss(hidden, weight), torch.compile(loss, backend="aot_eager", fullgraph=True)(hidden, weight)
    assert torch.equal(plain, compiled)
    gradients = [torch.autograd.grad(value, (hidden, weight)) for value in (plain, compiled)]
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
