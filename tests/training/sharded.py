"""Every optimiser and the weight average on a model in shards of two gloo processes, beside the same model whole."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor, nn

from training.averaging import WeightAverage
from training.config import ModelConfig, OptimizerConfig
from training.models.transformer import Transformer
from training.optimizers import OptimizerSet, build

NAMES = ["adamw", "sgd", "lion", "lamb", "muon"]
# Odd numbers of rows: the shards differ in size, and one process has none of some.
CONFIG = ModelConfig(
    layers=2, heads=2, kv_heads=1, width=12, context_length=8, mlp_width=7, qk_norm="gains", bigram_buckets=13
)
VOCABULARY = 21


def config_of(name: str) -> OptimizerConfig:
    return OptimizerConfig(name=name, learning_rate=0.01, weight_decay=0.1)  # type: ignore[arg-type]


def run_in_two_processes(folder: Path) -> None:
    """Raise what one of the processes raises."""
    torch.multiprocessing.spawn(_process, (str(folder),), nprocs=2)


def _process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    try:
        for name in NAMES:
            _steps(name, torch.float32, 1e-5)
        _steps("muon", torch.bfloat16, 2e-2)
        _average()
    finally:
        dist.destroy_process_group()


def _models() -> tuple[Transformer, Transformer]:
    from torch.distributed.fsdp import fully_shard

    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(Transformer(CONFIG, VOCABULARY))
    whole, sharded = models
    for block in sharded.blocks:
        fully_shard(block)
    fully_shard(sharded)
    return whole, sharded


def _steps(name: str, dtype: torch.dtype, tolerance: float) -> None:
    whole, sharded = _models()
    one, other = (build(config_of(name), model, dtype) for model in (whole, sharded))
    for step in range(3):
        _update(step, whole, sharded, one, other)
    _same(whole, sharded, one, other, tolerance)
    # A step with NaN in one shard alone is skipped by all.
    before = {key: _full(value).clone() for key, value in sharded.named_parameters()}
    _set_gradients(3, whole, sharded)
    if dist.get_rank() == 1:
        assert sharded.head.weight.grad is not None
        sharded.head.weight.grad.to_local().fill_(float("nan"))
    other.step(1.0, ~other.clip(1.0).isfinite())
    assert all(torch.equal(before[key], _full(value)) for key, value in sharded.named_parameters())
    # The state goes from shards to a whole model and back, on to the same next step.
    state = {key: _full(value).clone() for key, value in other.state_tensors().items()}
    first, second, third = (build(config_of(name), model, dtype) for model in (whole, sharded, sharded))
    first.load_state_tensors(other.state_tensors())
    second.load_state_tensors(state)
    third.load_state_tensors(other.state_tensors())
    for key, value in third.state_tensors().items():
        assert torch.equal(_full(value), _full(second.state_tensors()[key])), key
    _update(4, whole, sharded, first, second)
    _same(whole, sharded, first, second, tolerance)


def _update(step: int, whole: nn.Module, sharded: nn.Module, one: OptimizerSet, other: OptimizerSet) -> None:
    _set_gradients(step, whole, sharded)
    norms = one.clip(0.5), other.clip(0.5)
    torch.testing.assert_close(*norms)
    assert type(norms[1]) is Tensor
    one.step(1.0)
    other.step(1.0, torch.tensor(False))


def _set_gradients(step: int, whole: nn.Module, sharded: nn.Module) -> None:
    from torch.distributed.tensor import distribute_tensor

    generator = torch.Generator().manual_seed(step)
    for parameter, part in zip(whole.parameters(), sharded.parameters(), strict=True):
        parameter.grad = torch.randn(parameter.shape, generator=generator)
        part.grad = distribute_tensor(parameter.grad.clone(), part.device_mesh, part.placements)  # type: ignore[attr-defined]


def _same(whole: nn.Module, sharded: nn.Module, one: OptimizerSet, other: OptimizerSet, tolerance: float) -> None:
    for (path, parameter), part in zip(whole.named_parameters(), sharded.parameters(), strict=True):
        torch.testing.assert_close(_full(part), parameter.detach(), atol=tolerance, rtol=tolerance, msg=path)
    states = one.state_tensors(), other.state_tensors()
    assert states[0].keys() == states[1].keys()
    for key, value in states[0].items():
        torch.testing.assert_close(_full(states[1][key]), value, atol=tolerance, rtol=tolerance, msg=key)


def _full(tensor: Tensor) -> Tensor:
    whole: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole.detach()


def _average() -> None:
    """What was gathered for a forward pass with the average must not be used after it, nor the other way round."""
    whole, sharded = _models()
    averages = [WeightAverage(model, 0.5) for model in (whole, sharded)]
    optimizers = [build(config_of("sgd"), model) for model in (whole, sharded)]
    ids = torch.randint(0, VOCABULARY, (2, 8), generator=torch.Generator().manual_seed(1))

    def compare() -> Tensor:
        with torch.no_grad():
            outputs = whole(ids), sharded(ids)
        torch.testing.assert_close(*outputs)
        return outputs[0]

    compare()
    for step in range(2):
        # As after a backward pass.
        for module in sharded.modules():
            getattr(module, "reshard", lambda: None)()
        _update(step, whole, sharded, *optimizers)
        for average in averages:
            average.update(torch.tensor(False))
    plain = compare()
    with averages[0].applied(), averages[1].applied():
        assert not torch.equal(compare(), plain)
    assert torch.equal(compare(), plain)
    restored = WeightAverage(sharded, 0.5)
    restored.load_state_tensors({key: _full(value) for key, value in averages[1].state_tensors().items()})
    for key, value in restored.state_tensors().items():
        torch.testing.assert_close(_full(value), averages[0].state_tensors()[key])
