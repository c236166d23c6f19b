from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.training.sharded import NAMES, config_of, run_in_two_processes
from training.config import ModelConfig, OptimizerConfig
from training.models.transformer import Transformer
from training.optimizers import SGD, AdamW, Lamb, Lion, Muon, OptimizerSet, RowAdagrad, build, orthogonalize
from training.optimizers.part import Part

CONFIG = ModelConfig(layers=1, heads=2, width=16, context_length=8, bigram_buckets=11)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def new_model(config: ModelConfig = CONFIG) -> Transformer:
    torch.manual_seed(0)
    return Transformer(config, 20)


def set_gradients(model: nn.Module, seed: int, value: float | None = None) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
        if value is not None:
            parameter.grad.flatten()[::3] = value


def stepped(model: Transformer, config: OptimizerConfig, steps: int, factor: float = 1.0) -> OptimizerSet:
    optimizer = build(config, model)
    for step in range(steps):
        set_gradients(model, step)
        optimizer.step(factor)
    return optimizer


def copied(optimizer: OptimizerSet, model: nn.Module) -> dict[str, Tensor]:
    tensors = {**optimizer.state_tensors(), **dict(model.named_parameters())}
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


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


Make = Callable[[list[Tensor]], Part]
Theirs = Callable[[list[Tensor]], torch.optim.Optimizer]
ADAM: dict[str, Any] = {"lr": 0.01, "betas": (0.8, 0.95), "weight_decay": 0.1}


@pytest.mark.parametrize(
    ("make", "theirs", "tolerance"),
    [
        (
            lambda ps: AdamW([{"params": ps}], **ADAM, epsilon=1e-6),
            lambda ps: torch.optim.AdamW(ps, **ADAM, eps=1e-6, foreach=False),
            1e-6,
        ),
        (
            lambda ps: SGD([{"params": ps}], lr=0.1, momentum=0.9, weight_decay=0.0),
            lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9, nesterov=True),
            1e-6,
        ),
        (
            lambda ps: SGD([{"params": ps}], lr=0.1, momentum=0.0, weight_decay=0.0),
            lambda ps: torch.optim.SGD(ps, lr=0.1),
            1e-6,
        ),
        # Both iterate in bfloat16, with products in another order.
        (
            lambda ps: Muon([{"params": ps}], lr=0.02, momentum=0.9, weight_decay=0.1, dtype=torch.bfloat16),
            lambda ps: torch.optim.Muon(ps, lr=0.02, momentum=0.9, weight_decay=0.1),
            0.05,
        ),
    ],
    ids=["adamw", "sgd", "sgd-without-momentum", "muon"],
)
def test_steps_are_those_of_torch(make: Make, theirs: Theirs, tolerance: float) -> None:
    torch.manual_seed(0)
    begin = [torch.randn(24, 8), torch.randn(6, 10)]
    ours, reference = ([nn.Parameter(tensor.clone()) for tensor in begin] for _ in range(2))
    optimizers = [make(list(ours)), theirs(list(reference))]
    for _ in range(5):
        for one, other in zip(ours, reference, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for one, other, start in zip(ours, reference, begin, strict=True):
        assert float((one - other).detach().norm() / (other - start).detach().norm()) < tolerance


def test_lion_follows_its_algorithm() -> None:
    torch.manual_seed(0)
    weight, lr, beta1, beta2, decay = torch.randn(5, 3), 0.01, 0.9, 0.98, 0.3
    parameter, momentum = nn.Parameter(weight.clone()), torch.zeros(5, 3)
    optimizer = Lion([{"params": [parameter]}], lr, (beta1, beta2), decay)
    for _ in range(6):
        gradient = torch.randn(5, 3)
        parameter.grad = gradient.clone()
        optimizer.step()
        weight = weight - lr * ((beta1 * momentum + (1 - beta1) * gradient).sign() + decay * weight)
        momentum = beta2 * momentum + (1 - beta2) * gradient
    assert torch.allclose(parameter, weight, atol=1e-6)
    assert torch.allclose(optimizer.state[parameter]["momentum"], momentum, atol=1e-6)


@pytest.mark.parametrize("shape", [(5, 3), (7,)])
def test_lamb_follows_its_algorithm(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    weight, lr, beta1, beta2, epsilon, decay = torch.randn(shape), 0.1, 0.9, 0.99, 1e-6, 0.3
    parameter, mean, square = nn.Parameter(weight.clone()), torch.zeros(shape), torch.zeros(shape)
    optimizer = Lamb([{"params": [parameter]}], lr, (beta1, beta2), epsilon, decay)
    for step in range(1, 7):
        gradient = torch.randn(shape)
        parameter.grad = gradient.clone()
        optimizer.step()
        mean = beta1 * mean + (1 - beta1) * gradient
        square = beta2 * square + (1 - beta2) * gradient**2
        update = mean / (1 - beta1**step) / ((square / (1 - beta2**step)).sqrt() + epsilon) + decay * weight
        ratio = weight.norm() / update.norm() if len(shape) > 1 else 1.0
        weight = weight - lr * ratio * update
    assert torch.allclose(parameter, weight, atol=1e-5)


def test_lamb_measures_stacked_matrices_one_by_one() -> None:
    torch.manual_seed(0)
    stacked, gradient = torch.cat([torch.randn(4, 3), 9 * torch.randn(2, 3)]), torch.randn(6, 3)
    whole, *apart = (nn.Parameter(part.clone()) for part in (stacked, stacked[:4], stacked[4:]))
    for parameter, part in zip((whole, *apart), (gradient, gradient[:4], gradient[4:]), strict=True):
        parameter.grad = part.clone()
    settings = {"lr": 0.1, "betas": (0.9, 0.99), "epsilon": 1e-6, "weight_decay": 0.1}
    Lamb([{"params": [whole]}], **settings, stacked={whole: (4, 2)}).step()
    Lamb([{"params": apart}], **settings).step()
    assert torch.allclose(whole, torch.cat(apart), atol=1e-6)
    model = new_model()
    (lamb,) = [part for part in build(config_of("lamb"), model)._parts if isinstance(part, Lamb)]
    assert lamb._stacked[model.blocks[0].attention.qkv.weight] == (16, 16, 16)


def test_the_decay_of_sgd_stays_out_of_its_momentum() -> None:
    parameter = nn.Parameter(torch.ones(2))
    optimizer = SGD([{"params": [parameter]}], lr=0.1, momentum=0.9, weight_decay=0.5)
    parameter.grad = torch.zeros(2)
    optimizer.step()
    assert parameter.tolist() == pytest.approx([0.95, 0.95])
    assert not optimizer.state[parameter]["momentum"].any()


def test_split_matrices_are_updated_apart() -> None:
    torch.manual_seed(0)
    whole = nn.Parameter(torch.randn(12, 4))
    parts = [nn.Parameter(part.clone()) for part in whole.detach().split((6, 3, 3))]
    gradient = torch.randn(12, 4)
    whole.grad = gradient.clone()
    for part, part_gradient in zip(parts, gradient.split((6, 3, 3)), strict=True):
        part.grad = part_gradient.clone()
    settings: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.0, "dtype": torch.float32}
    Muon([{"params": [whole], "split": (6, 3, 3)}], **settings).step()
    Muon([{"params": parts}], **settings).step()
    assert torch.allclose(whole, torch.cat(list(parts)), atol=1e-5)


@pytest.mark.parametrize("mlp", ["swiglu", "relu2"])
def test_query_key_value_and_gate_are_made_orthogonal_each(mlp: str) -> None:
    config = ModelConfig(layers=1, heads=4, kv_heads=2, width=16, context_length=8, mlp=mlp, mlp_width=24)  # type: ignore[arg-type]
    model = new_model(config)
    parameters = {name.removeprefix("blocks.0."): parameter for name, parameter in model.named_parameters()}
    start = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    set_gradients(model, 0)
    splits = {
        "attention.qkv.weight": (16, 8, 8),
        "attention.output.weight": (16,),
        "mlp.input.weight": (24, 24) if mlp == "swiglu" else (24,),
        "mlp.output.weight": (16,),
    }
    for name, rows in splits.items():
        # Made orthogonal together, the parts with the small gradients would hardly move.
        for index, part in enumerate(parameters[name].grad.split(rows)):
            part *= 1e5**index
    build(OptimizerConfig(name="muon", muon_learning_rate=1.0), model).step(1.0)
    for name, rows in splits.items():
        moved = start[name] - parameters[name].detach()
        for part in moved.split(rows):
            scale = max(1.0, part.shape[0] / part.shape[1]) ** 0.5
            values = torch.linalg.svdvals(part) / scale
            assert float(values.min()) > 0.3, name
            assert float(values.max()) < 1.3, name


@pytest.mark.parametrize("name", NAMES)
def test_the_factor_scales_the_first_update(name: str) -> None:
    start, full, half = new_model(), new_model(), new_model()
    stepped(full, config_of(name), 1)
    stepped(half, config_of(name), 1, factor=0.5)
    for begin, one, two in zip(start.parameters(), full.parameters(), half.parameters(), strict=True):
        assert not torch.equal(begin, one)
        assert torch.allclose((one - begin) / 2, two - begin, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("decay_embeddings", [True, False])
def test_weight_decay_spares_vectors_and_embeddings_on_request(name: str, decay_embeddings: bool) -> None:
    shape = ModelConfig(
        layers=1, heads=2, width=16, context_length=8, positions="learned", bias="all", norm="layernorm"
    )
    model = new_model(shape)
    config = OptimizerConfig(
        name=name,  # type: ignore[arg-type]
        learning_rate=0.1,
        muon_learning_rate=0.1,
        weight_decay=0.5,
        decay_embeddings=decay_embeddings,
    )
    optimizer = build(config, model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step(1.0)
    spared = () if decay_embeddings else ("embedding.weight", "position_embedding.weight")
    names = dict(model.named_parameters())
    assert {"head.weight", "blocks.0.mlp.input.bias", "norm.bias", "position_embedding.weight"} <= names.keys()
    for path, parameter in names.items():
        # LAMB's step is as long as its rate says, however small the decay.
        decayed = 0.9 if name == "lamb" else 0.95
        expected = decayed if parameter.ndim == 2 and path not in spared else 1.0
        assert float(parameter.detach().mean()) == pytest.approx(expected), path


@pytest.mark.parametrize(("name", "of_matrices", "of_others"), [("adamw", 0.25, 1), ("lion", 0.25, 1), ("sgd", 1, 4)])
def test_mup_scales_rates_and_not_what_decays(name: str, of_matrices: float, of_others: float) -> None:
    shape = ModelConfig(
        layers=1, heads=2, width=16, context_length=8, initialization="mup", mup_base_width=4, bias="all"
    )
    for gradient, decay in ((1.0, 0.0), (0.0, 0.5)):
        model = new_model(shape)
        config = OptimizerConfig(name=name, learning_rate=0.1, weight_decay=decay, momentum=0.0)  # type: ignore[arg-type]
        optimizer = build(config, model)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(1.0)
                parameter.grad = torch.full_like(parameter, gradient)
        optimizer.step(1.0)
        for path, parameter in model.named_parameters():
            matrix = path.startswith("blocks.") and parameter.ndim == 2
            step = 0.1 * (of_matrices if matrix else of_others)
            expected = 1 - step if gradient else (0.95 if parameter.ndim == 2 else 1.0)
            assert float(parameter.detach().mean()) == pytest.approx(expected, rel=1e-5), path


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1.0])
@pytest.mark.parametrize("steps", [0, 2])
def test_a_skipped_step_changes_not_a_bit(name: str, value: float, steps: int) -> None:
    model, undisturbed = new_model(), new_model()
    optimizer, other = stepped(model, config_of(name), steps), stepped(undisturbed, config_of(name), steps)
    before = copied(optimizer, model)
    set_gradients(model, 50, value)
    optimizer.clip(1.0)
    optimizer.step(1.0, torch.tensor(True))
    assert same(copied(optimizer, model), before)
    for one, whose, skip in ((model, optimizer, torch.tensor(False)), (undisturbed, other, None)):
        set_gradients(one, 51)
        whose.clip(1.0)
        whose.step(0.7, skip)
    assert same(copied(optimizer, model), copied(other, undisturbed))
    assert not same(copied(optimizer, model), before)


def test_a_skipped_step_spares_the_rows_of_sparse_gradients() -> None:
    table = nn.Parameter(torch.randn(6, 2))
    before = table.detach().clone()
    optimizer = RowAdagrad([table], lr=0.5)
    table.grad = torch.sparse_coo_tensor([[1, 4, 1]], torch.full((3, 2), float("nan")), (6, 2), check_invariants=True)
    optimizer.step(torch.tensor(True))
    assert torch.equal(table, before)
    assert not optimizer.state[table]["squares"].any()


class NoSynchronization(TorchDispatchMode):
    """Fails where a value goes from the device to Python, or decides on a shape."""

    WAITING = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal", "unique", "masked_select")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func.overloadpacket.__name__ not in self.WAITING, func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", NAMES)
def test_no_step_waits_for_the_device(name: str) -> None:
    model = new_model()
    optimizer = stepped(model, config_of(name), 1)
    with NoSynchronization():
        norm = optimizer.clip(1.0)
        optimizer.step(1.0, ~norm.isfinite())
    with pytest.raises(AssertionError), NoSynchronization():
        bool(norm > 0)


@pytest.mark.parametrize("name", NAMES)
def test_clipping_is_that_of_torch_without_the_bigrams(name: str) -> None:
    model, reference = new_model(), new_model()
    optimizer = build(config_of(name), model)
    for one in (model, reference):
        set_gradients(one, 3)
    expected = nn.utils.clip_grad_norm_([p for n, p in reference.named_parameters() if n != "bigrams.weight"], 2.0)
    torch.testing.assert_close(optimizer.clip(0), expected)
    torch.testing.assert_close(optimizer.clip(2.0), expected)  # as clip(0) has only measured
    for one, other in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    torch.testing.assert_close(optimizer.clip(0), torch.tensor(2.0))
    assert model.head.weight.grad is not None
    model.head.weight.grad[1, 2] = float("inf")
    assert not optimizer.clip(1.0).isfinite()


@pytest.mark.parametrize("name", NAMES)
def test_state_goes_on_where_it_stopped(name: str) -> None:
    first, second = new_model(), new_model()
    one = stepped(first, config_of(name), 3)
    other = build(config_of(name), second)
    second.load_state_dict(first.state_dict())
    other.load_state_tensors(one.state_tensors())
    for model, optimizer in ((first, one), (second, other)):
        set_gradients(model, 9)
        optimizer.step(1.0)
    assert same(copied(one, first), copied(other, second))


def test_state_that_does_not_fit_is_refused() -> None:
    model = new_model()
    optimizer = build(OptimizerConfig(name="lion"), model)
    tensors = optimizer.state_tensors()
    with pytest.raises(ValueError, match=r"head.weight/momentum.*missing"):
        optimizer.load_state_tensors({key: value for key, value in tensors.items() if "head" not in key})
    with pytest.raises(ValueError, match=r"head.weight/exp_avg.*of no parameter"):
        optimizer.load_state_tensors({**tensors, "head.weight/exp_avg": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"head.weight/momentum.*shape \(3,\)"):
        optimizer.load_state_tensors({**tensors, "head.weight/momentum": torch.zeros(3)})


def test_muon_compiled_is_muon(monkeypatch: pytest.MonkeyPatch) -> None:
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **options: compile_(f, backend="aot_eager", **options))
    plain, compiled = new_model(), new_model()
    optimizers = [build(OptimizerConfig(), plain), build(OptimizerConfig(), compiled, compiled=True)]
    for model, optimizer in zip((plain, compiled), optimizers, strict=True):
        set_gradients(model, 1)
        optimizer.step(1.0)
    for one, other in zip(plain.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_shards_are_stepped_as_the_whole(tmp_path: Path) -> None:
    run_in_two_processes(tmp_path)
