import pytest
import torch

from training.config import ModelConfig, OptimizerConfig
from training.models.gpt import GPT
from training.optimizers import Muon, build, orthogonalize

CONFIG = ModelConfig(layers=1, heads=2, width=16, context_length=8)


def stepped(model: GPT, config: OptimizerConfig, steps: int, factor: float = 1.0) -> None:
    optimizer = build(config, model)
    for step in range(steps):
        torch.manual_seed(step)
        model(torch.randint(0, 20, (2, 8))).logsumexp(-1).sum().backward()
        optimizer.step(factor)
        optimizer.zero_grad()


def new_model() -> GPT:
    torch.manual_seed(0)
    return GPT(CONFIG, 20)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 20), (2, 20, 8)])
def test_updates_are_nearly_orthogonal(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    matrices = torch.randn(shape)
    update = orthogonalize(matrices)
    values = torch.linalg.svdvals(update)
    assert float(values.min()) > 0.5
    assert float(values.max()) < 1.3
    # The singular vectors stay: U V' of the matrix is what it comes near to.
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    cosine = torch.nn.functional.cosine_similarity((u @ vh).flatten(1), update.flatten(1))
    assert float(cosine.min()) > 0.97


def test_muon_is_that_of_torch() -> None:
    torch.manual_seed(0)
    begin = torch.randn(24, 8)
    ours, theirs = torch.nn.Parameter(begin.clone()), torch.nn.Parameter(begin.clone())
    our_muon = Muon([{"params": [ours]}], lr=0.02, momentum=0.9, weight_decay=0.1, dtype=torch.bfloat16)
    their_muon = torch.optim.Muon([theirs], lr=0.02, momentum=0.9, weight_decay=0.1)
    for _ in range(5):
        ours.grad = torch.randn(24, 8)
        theirs.grad = ours.grad.clone()
        our_muon.step()
        their_muon.step()
    # Both iterate in bfloat16, with products in another order.
    assert float((ours - theirs).norm() / (theirs - begin).norm()) < 0.05


def test_split_matrices_are_updated_apart() -> None:
    torch.manual_seed(0)
    whole = torch.nn.Parameter(torch.randn(12, 4))
    parts = [torch.nn.Parameter(part.clone()) for part in whole.detach().split(4)]
    gradient = torch.randn(12, 4)
    whole.grad = gradient.clone()
    for part, part_gradient in zip(parts, gradient.split(4), strict=True):
        part.grad = part_gradient.clone()
    Muon([{"params": [whole], "split": 3}], lr=0.1, momentum=0.9, weight_decay=0.0, dtype=torch.float32).step()
    Muon([{"params": parts}], lr=0.1, momentum=0.9, weight_decay=0.0, dtype=torch.float32).step()
    assert torch.allclose(whole, torch.cat(list(parts)), atol=1e-3)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_the_factor_scales_the_first_update(name: str) -> None:
    config = OptimizerConfig(name=name)  # type: ignore[arg-type]
    start, full, half = new_model(), new_model(), new_model()
    stepped(full, config, 1)
    stepped(half, config, 1, factor=0.5)
    for begin, one, two in zip(start.parameters(), full.parameters(), half.parameters(), strict=True):
        assert torch.allclose((one - begin) / 2, two - begin, atol=1e-6)


def test_weight_decay_spares_vectors() -> None:
    model = new_model()
    optimizer = build(OptimizerConfig(name="adamw", learning_rate=0.1, weight_decay=0.5), model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step(1.0)
    for name, parameter in model.named_parameters():
        assert float(parameter.mean()) == pytest.approx(0.95 if parameter.ndim == 2 else 1.0), name


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_state_goes_on_where_it_stopped(name: str) -> None:
    config = OptimizerConfig(name=name)  # type: ignore[arg-type]
    model = new_model()
    stepped(model, config, 3)
    first, second = new_model(), new_model()
    optimizers = [build(config, first), build(config, second)]
    gradients = [[torch.randn_like(p) for p in first.parameters()] for _ in range(2)]

    def step(index: int, which: int) -> None:
        for parameter, gradient in zip((first, second)[which].parameters(), gradients[index], strict=True):
            parameter.grad = gradient.clone()
        optimizers[which].step(1.0)

    step(0, 0)
    second.load_state_dict(first.state_dict())
    optimizers[1].load_state_tensors({key: value.clone() for key, value in optimizers[0].state_tensors().items()})
    step(1, 0)
    step(1, 1)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
