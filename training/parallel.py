"""One model over several processes: a replica in each (DDP), or its parameters in shards (FSDP2).

DDP: Li et al. 2020, "PyTorch Distributed". FSDP2: `fully_shard`, after Zhao et al. 2023, "PyTorch FSDP". Both average
gradients over the processes. Optimisers are built after `parallelise`, since FSDP2 replaces the parameters.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from training.config import TrainingConfig
from training.distributed import World
from training.models import Model


class _Compute(Protocol):
    """What of `training.devices.Compute` matters here."""

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...


def parallelise(
    loss_module: nn.Module,
    model: Model,
    config: TrainingConfig,
    world: World,
    compute: _Compute,
    idle: bool = False,
) -> nn.Module:
    """Spread `loss_module`, whose forward pass runs `model`, over the processes; the module itself where there is one.

    `model` is on its device and holds the same weights in all processes. FSDP2 shards `loss_module` in place: each
    block, embeddings that the head does not share, and the rest, which stays whole from the loss's forward pass to its
    backward pass, since the loss reads the head's matrix. With bfloat16 on CUDA parameters are gathered in it, and
    gradients are summed in float32. `idle`: some parameters may have no part in a loss.
    """
    if world.size == 1:
        return loss_module
    if config.parallel == "ddp":
        with warnings.catch_warnings():
            # Its new name in torch 2.13 is unknown to 2.11.
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            # The buffers are constants (rotary tables): nothing to broadcast.
            return DistributedDataParallel(
                loss_module, gradient_as_bucket_view=True, broadcast_buffers=False, find_unused_parameters=idle
            )
    return _shard(loss_module, model, world, compute)


def _shard(loss_module: nn.Module, model: Model, world: World, compute: _Compute) -> nn.Module:
    # Imported here, since it takes most of a second that other runs can spare.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(compute.device.type, (world.size,))
    mixed = compute.device.type == "cuda" and compute.dtype == torch.bfloat16
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if mixed else MixedPrecisionPolicy()
    # A block that stands for several layers is kept whole between them: gathering it for each would be wasted.
    # So is one that runs once for each segment.
    shared = model.config.blocks < model.config.layers or model.config.architecture == "two_stream"
    for block in model.blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=not shared)
    shared_embedding = model.config.tied_embeddings or model.config.architecture != "transformer"
    for embedding in (model.bigrams, None if shared_embedding else model.embedding):
        if embedding is not None:
            fully_shard(embedding, mesh=mesh, mp_policy=policy)
    fully_shard(loss_module, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    # A forward pass that does nothing but gather: `whole` calls it.
    root: Any = loss_module
    root.gather = lambda: None
    register_fsdp_forward_method(loss_module, "gather")
    return loss_module


def gradients_summed(module: nn.Module, last: bool) -> AbstractContextManager[None]:
    """Around forward and backward of one micro-batch: processes exchange gradients with the last one of a step only."""
    module = getattr(module, "_orig_mod", module)
    if isinstance(module, DistributedDataParallel) and not last:
        return module.no_sync()
    if _is_sharded(module):
        root: Any = module
        root.set_requires_gradient_sync(last)
        root.set_is_last_backward(last)
    return nullcontext()


@contextmanager
def whole(module: nn.Module) -> Iterator[None]:
    """Run the model outside of the loss's forward pass (evaluation, samples): what the head needs is gathered.

    All processes must enter it and run the same forward passes. Blocks gather and free themselves as they do in
    training. Does nothing but for FSDP2.
    """
    root: Any = getattr(module, "_orig_mod", module)
    if not _is_sharded(root):
        yield
        return
    root.gather()
    try:
        yield
    finally:
        for part in root.modules():
            if _is_sharded(part):
                part.reshard()


def _is_sharded(module: nn.Module) -> bool:
    """Whether FSDP2 has taken a module over."""
    return hasattr(module, "set_requires_gradient_sync")
