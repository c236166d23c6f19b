"""Muon: momentum whose update is made orthogonal, for the matrices of the trunk (Jordan et al. 2024)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from training.optimizers.part import Part, kept, unless
from training.optimizers.shards import is_sharded, local, row_group, share_of_rows

Rows = tuple[int, ...]
"""How many rows of a matrix belong to each of the independent ones that are stacked in it; empty for all to one."""


class Muon(Part):
    """Nesterov momentum; five Newton-Schulz steps of degree five; updates scaled by sqrt(max(1, rows / columns)).

    `split` (a group's setting) says how many rows belong to each of the independent matrices that lie in one parameter,
    such as query, key and value. `dtype` is that of the Newton-Schulz steps; bfloat16 is enough for them. Of parameters
    in shards each process orthogonalises some whole matrices, which come together there and go apart again.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        lr: float,
        momentum: float,
        weight_decay: float,
        dtype: torch.dtype,
        compiled: bool = False,
    ) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "split": ()})
        self._dtype = dtype
        self._orthogonalize = torch.compile(orthogonalize, dynamic=False) if compiled else orthogonalize

    def new_state(self, parameter: Tensor) -> dict[str, Tensor]:
        """The momentum."""
        return {"momentum": torch.zeros_like(parameter)}

    @torch.no_grad()
    def step(self, skip: Tensor | None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient, those of one shape together: they are many and small."""
        keep = kept(skip)
        parameters = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        splits = [group["split"] for group in self.param_groups for p in group["params"] if p.grad is not None]
        directions = [direction for group in self.param_groups for direction in self._directions(group, skip)]
        updates = self._updates(parameters, directions, splits)
        if skip is not None:
            torch._foreach_mul_(updates, keep)
        remaining = iter(updates)
        for group in self.param_groups:
            (weights,) = self.ready(group)[:1]
            if group["weight_decay"]:
                torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"] * keep)
            for weight in weights:
                weight.add_(next(remaining), alpha=-group["lr"])

    def _directions(self, group: dict[str, Any], skip: Tensor | None) -> list[Tensor]:
        """Momentum, looked ahead by one step, in the dtype of the Newton-Schulz steps."""
        _, gradients, momenta = self.ready(group, "momentum")
        if not gradients:
            return []
        # A mean of the momentum with itself is the momentum: so it stays as it is in a step that is skipped.
        gradients = unless(skip, gradients, momenta)
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        return [direction.to(self._dtype) for direction in torch._foreach_lerp(gradients, momenta, group["momentum"])]

    def _updates(self, parameters: list[Tensor], directions: list[Tensor], splits: list[Rows]) -> list[Tensor]:
        """The update of each parameter, or of this process's shard of it."""
        if not parameters or not is_sharded(parameters[0]):
            return _orthogonal(directions, splits, self._orthogonalize)
        exchange = Exchange(parameters)
        whole = exchange.gather(directions)
        mine = [split for split, owner in zip(splits, exchange.owners, strict=True) if owner == exchange.rank]
        return exchange.scatter(_orthogonal(whole, mine, self._orthogonalize))


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """The nearly orthogonal factor of each matrix (batch, rows, columns): singular values end in about [0.7, 1.2].

    Newton-Schulz iteration with Jordan et al.'s coefficients, in the dtype of the matrices; fewest products where they
    are wide.
    """
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315)
        x = torch.baddbmm(x, polynomial, x, beta=3.4445)
    return x


def _orthogonal(
    matrices: Sequence[Tensor], splits: Sequence[Rows], orthogonalize: Callable[[Tensor], Tensor]
) -> list[Tensor]:
    """The scaled orthogonal factor of each matrix, or of each part of it, those of one shape computed together."""
    results = [torch.empty_like(matrix) for matrix in matrices]
    batches: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
    for matrix, result, split in zip(matrices, results, splits, strict=True):
        for pair in zip(matrix.split(split or len(matrix)), result.split(split or len(matrix)), strict=True):
            short, long = sorted(pair[0].shape)
            batches.setdefault((short, long), []).append(pair)
    for pairs in batches.values():
        updates = orthogonalize(torch.stack([_wide(part) for part, _ in pairs]))
        for (_, result), update in zip(pairs, updates, strict=True):
            rows, columns = result.shape
            torch.mul(update.mT if rows > columns else update, max(1.0, rows / columns) ** 0.5, out=result)
    return results


def _wide(matrix: Tensor) -> Tensor:
    return matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix


class Exchange:
    """Brings the shards of matrices together, each matrix whole on one process, and takes results apart again.

    `owners` says which process of the group gets which matrix: the work is shared out evenly.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._group = row_group(parameters[0])
        self.rank, self._size = dist.get_rank(self._group), dist.get_world_size(self._group)
        self._columns = [parameter.shape[1] for parameter in parameters]
        self._rows = [share_of_rows(len(parameter), self._size) for parameter in parameters]
        assert all(len(local(p)) == rows[self.rank] for p, rows in zip(parameters, self._rows, strict=True))
        self.owners = _owners([parameter.shape for parameter in parameters], self._size)
        self._owned = [[i for i, owner in enumerate(self.owners) if owner == rank] for rank in range(self._size)]

    def gather(self, shards: Sequence[Tensor]) -> list[Tensor]:
        """The whole matrices (rows, columns) that this process owns, from its shards of all of them."""
        sent = [[shards[i] for i in owned] for owned in self._owned]
        mine = self._owned[self.rank]
        shapes = [[(self._rows[i][rank], self._columns[i]) for i in mine] for rank in range(self._size)]
        received = self._all_to_all(sent, shapes)
        return [torch.cat(parts) for parts in zip(*received, strict=True)]

    def scatter(self, matrices: Sequence[Tensor]) -> list[Tensor]:
        """This process's shards of all matrices, from the whole ones that it owns."""
        mine = self._owned[self.rank]
        parts = [matrix.split(self._rows[i]) for i, matrix in zip(mine, matrices, strict=True)]
        sent = [[part[rank] for part in parts] for rank in range(self._size)]
        shapes = [[(self._rows[i][self.rank], self._columns[i]) for i in owned] for owned in self._owned]
        received = self._all_to_all(sent, shapes)
        shards = {
            i: shard
            for owned, own in zip(self._owned, received, strict=True)
            for i, shard in zip(owned, own, strict=True)
        }
        return [shards[i] for i in range(len(self._rows))]

    def _all_to_all(self, sent: list[list[Tensor]], shapes: list[list[tuple[int, int]]]) -> list[list[Tensor]]:
        """Send a list of tensors to each process, and receive one of these shapes from each, in one collective."""
        flat = torch.cat([tensor.reshape(-1) for tensors in sent for tensor in tensors])
        sizes = [[rows * columns for rows, columns in shapes_of_rank] for shapes_of_rank in shapes]
        received = flat.new_empty(sum(map(sum, sizes)))
        lengths = [sum(tensor.numel() for tensor in tensors) for tensors in sent]
        dist.all_to_all_single(received, flat, [sum(own) for own in sizes], lengths, group=self._group)
        parts = iter(received.split([size for own in sizes for size in own]))
        return [[next(parts).view(shape) for shape in shapes_of_rank] for shapes_of_rank in shapes]


def _owners(shapes: Sequence[torch.Size], size: int) -> list[int]:
    """Who makes which matrix orthogonal: the costliest first, each to the process with the least to do."""
    costs = [rows * columns * min(rows, columns) for rows, columns in shapes]
    loads, owners = [0] * size, [0] * len(costs)
    for index in sorted(range(len(costs)), key=lambda i: -costs[i]):
        owners[index] = loads.index(min(loads))
        loads[owners[index]] += costs[index]
    return owners
