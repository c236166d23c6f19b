"""The micro-batch: the most sequences in one forward pass that the memory of a device holds."""

from __future__ import annotations

import torch

from training.config import TrainingRun
from training.distributed import World
from training.planning.devices import DeviceSpec, free_memory, this_device
from training.planning.memory import Memory, estimate_memory, is_hopeless, share_of

SHARE_OF_FREE_MEMORY = 0.9
"""How much of a device's free memory is planned for."""


def find_device_batch_size(run: TrainingRun, world: World, device: torch.device) -> int:
    """The largest divisor of a process's share of the batch whose estimate fits 90 % of the device's free memory.

    To be called by all processes, before the model is made; all count on what is free on the fullest device, and so
    come to the same. On a CPU the free memory is shared among the processes of a machine. Raises ValueError naming what
    can be changed where not even one sequence fits.
    """
    ours = free_memory(device) // (world.local_size if device.type == "cpu" else 1)
    free = min(world.gather(ours))
    limit = int(SHARE_OF_FREE_MEMORY * free)
    spec = this_device("cuda" if device.type == "cuda" else "cpu")
    found = largest_that_fits(run, spec, world.size, limit)
    if found is None:
        raise ValueError(
            f"training.device_batch_size auto: not even one sequence of {run.sequence_length} tokens fits the "
            f"{limit / 1e9:.1f} GB that are free on {spec.name}: set training.recompute to blocks, training.logits to "
            "chunks, a shorter training.sequence_length, or training.parallel to fsdp with more processes; "
            "`headrace plan` says which is enough"
        )
    return found.device_batch_size


def largest_that_fits(run: TrainingRun, device: DeviceSpec, processes: int, limit: int) -> Memory | None:
    """The estimate for the largest micro-batch that stays within `limit` bytes; None where none does.

    The upper bound, which is known at once, is bisected; from there on larger ones are tried till one is too large.
    """
    if is_hopeless(run, processes, limit):
        return None
    share = share_of(run, processes)
    sizes = divisors_from(share, share)
    low, found = 0, largest_by_bound(run, device, processes, limit)
    if found is not None:
        if not found.upper_bound:
            return found
        low = sizes.index(found.device_batch_size)
    for size in reversed(sizes if found is None else sizes[: low + 1]):
        memory = estimate_memory(run, device, processes, size)
        if memory.total > limit:
            break
        found = memory
    return found


def largest_by_bound(run: TrainingRun, device: DeviceSpec, processes: int, limit: int) -> Memory | None:
    """The upper bound for the largest micro-batch whose bound stays within `limit` bytes; None where none does."""
    share = share_of(run, processes)
    sizes = divisors_from(share, share)
    low, high, found = 0, len(sizes), None
    while low < high:
        middle = (low + high) // 2
        memory = estimate_memory(run, device, processes, sizes[middle], bound=True)
        if memory.total <= limit:
            high, found = middle, memory
        else:
            low = middle + 1
    return found


def divisors_from(size: int, share: int) -> list[int]:
    """The divisors of `share` up to `size`, the largest first."""
    return [divisor for divisor in range(min(size, share), 0, -1) if share % divisor == 0]
