"""Parameters and state in shards: DTensors, as FSDP2 makes them.

DTensor is not imported but where there is one: it takes most of a second that a run of one process can spare.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor."""
    return hasattr(tensor, "to_local")


def local(tensor: Tensor) -> Tensor:
    """This process's share of a DTensor, which shares its memory; any other tensor itself."""
    placed: Any = tensor
    share: Tensor = placed.to_local() if is_sharded(tensor) else tensor
    return share


def groups(tensor: Tensor) -> list[dist.ProcessGroup]:
    """The process groups over which a tensor is cut up; none for a whole one."""
    if not is_sharded(tensor):
        return []
    placed: Any = tensor
    mesh = placed.device_mesh
    return [mesh.get_group(axis) for axis, placement in enumerate(placed.placements) if placement.is_shard()]


def row_zeros(parameter: Tensor) -> Tensor:
    """A zero for each row (dimension 0) of a parameter, sharded as its rows are."""
    zeros = torch.zeros(len(local(parameter)), device=parameter.device)
    if not is_sharded(parameter):
        return zeros
    from torch.distributed.tensor import DTensor

    placed: Any = parameter
    _check_rows(placed)
    rows = torch.Size((len(parameter),))
    return DTensor.from_local(zeros, placed.device_mesh, placed.placements, run_check=False, shape=rows, stride=(1,))


def like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """A copy of a state tensor, whole or sharded, on the parameter's device and sharded as the parameter is."""
    placed: Any = parameter
    value: Any = tensor.detach()
    if is_sharded(parameter) and tensor.ndim:
        if not is_sharded(tensor):
            from torch.distributed.tensor import distribute_tensor

            # Every process has the whole of it, so that none has to send.
            value = value.to(parameter.device)
            return distribute_tensor(value, placed.device_mesh, placed.placements, src_data_rank=None).clone()
        if value.placements != placed.placements or value.device_mesh != placed.device_mesh:
            value = value.redistribute(placed.device_mesh, placed.placements)
    elif is_sharded(tensor):
        value = value.full_tensor()
    copy: Tensor = value.to(parameter.device, copy=True)
    return copy


def row_group(parameter: Tensor) -> dist.ProcessGroup:
    """The process group over which the rows (dimension 0) of a DTensor are cut up."""
    _check_rows(parameter)
    (group,) = groups(parameter)
    return group


def share_of_rows(rows: int, size: int) -> list[int]:
    """How many of a DTensor's rows each of `size` processes holds: as torch.chunk cuts, the last may be left with 0."""
    share = -(-rows // size)
    return [max(0, min(share, rows - rank * share)) for rank in range(size)]


def local_rows(parameter: Tensor, rows: tuple[int, ...]) -> tuple[int, ...]:
    """How many of the rows of each matrix that is stacked in a parameter this process holds; `rows` of a whole one."""
    if not rows or not is_sharded(parameter):
        return rows
    group = row_group(parameter)
    shares = share_of_rows(len(parameter), dist.get_world_size(group))
    rank = dist.get_rank(group)
    begin, end = sum(shares[:rank]), sum(shares[: rank + 1])
    edges = [sum(rows[:index]) for index in range(len(rows) + 1)]
    return tuple(max(0, min(last, end) - max(first, begin)) for first, last in itertools.pairwise(edges))


def _check_rows(placed: Any) -> None:
    shards = [placement for placement in placed.placements if placement.is_shard()]
    if len(shards) != 1 or shards[0].dim != 0:
        raise ValueError(f"this optimiser needs parameters that are sharded by rows, got {placed.placements}")


def check_alike(ours: dict[str, Tensor], theirs: dict[str, Tensor], what: str) -> None:
    """Raise ValueError naming a state tensor that is missing, left over, or of another shape than ours."""
    for name in sorted(ours.keys() ^ theirs.keys()):
        raise ValueError(f"{what} {name!r} is {'missing' if name in ours else 'of no parameter here'}")
    for name, tensor in theirs.items():
        if tensor.shape != ours[name].shape:
            raise ValueError(f"{what} {name!r} has shape {tuple(tensor.shape)}, not {tuple(ours[name].shape)}")
