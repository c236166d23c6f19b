"""Processes of one run: who this one is, and what they add up together. torchrun sets the environment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class World:
    """The place of this process among all of them."""

    rank: int = 0
    local_rank: int = 0
    local_size: int = 1
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    @classmethod
    def from_environment(cls) -> World:
        """As torchrun describes it; one process where it did not start us."""
        names = ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "WORLD_SIZE")
        defaults = (0, 0, 1, 1)
        return cls(*(int(os.environ.get(name, default)) for name, default in zip(names, defaults, strict=True)))

    def sum(self, tensor: Tensor) -> Tensor:
        """Add a tensor up over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def wait(self) -> None:
        """Until every process has come here."""
        if self.size > 1:
            dist.barrier()

    @contextmanager
    def joined(self, device: torch.device) -> Iterator[None]:
        """Hold the process group for the length of the run: NCCL between GPUs, gloo between CPUs."""
        if self.size == 1:
            yield
            return
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        try:
            yield
        finally:
            dist.destroy_process_group()
