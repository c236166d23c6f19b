"""What a run computes on: device, threads, precision, peak, memory."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from training.config import TrainingConfig
from training.distributed import World

# Dense bf16 peak of one device in FLOP/s, from NVIDIA's data sheets.
_PEAK_BF16 = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
}


@dataclass(frozen=True)
class Compute:
    """The resolved settings of one process."""

    device: torch.device
    dtype: torch.dtype
    threads: int
    peak_flops: float | None
    """Peak FLOP/s of one device in `dtype`, where it is known."""
    compiled: bool
    precision: Literal["fp32", "bf16", "fp8"]
    """With fp8 the dtype is bfloat16, and the blocks' products are float8."""

    def autocast(self) -> torch.autocast:
        """The arithmetic of forward passes; nothing in float32."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def compile(self, module: nn.Module, mode: str) -> Callable[..., Any]:
        """The module by torch.compile for static shapes, where that is asked for, else as it is."""
        if not self.compiled:
            return module
        compiled: Callable[..., Any] = torch.compile(module, dynamic=False, mode=None if mode == "default" else mode)
        return compiled

    def replays_graphs(self, mode: str) -> bool:
        """Whether torch.compile in this mode replays CUDA graphs here."""
        return self.compiled and self.device.type == "cuda" and mode in ("reduce-overhead", "max-autotune")

    def synchronize(self) -> None:
        """Wait until the device has done what was asked of it, so that a clock tells the truth."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def resolve(config: TrainingConfig, world: World) -> Compute:
    """Choose device, precision and threads, and set torch's globals for them.

    Raises ValueError where CUDA is asked for and there is none, or no GPU for this process.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("training.device is cuda, but torch sees no CUDA device here; set it to auto or cpu")
    if torch.cuda.is_available() and config.device != "cpu" and world.local_rank >= torch.cuda.device_count():
        raise ValueError(
            f"{world.local_size} processes were started on a machine with {torch.cuda.device_count()} GPUs; "
            "lower train.processes to that"
        )
    use_cuda = config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available())
    device = torch.device("cuda", world.local_rank) if use_cuda else torch.device("cpu")
    threads = config.threads or max(1, len(os.sched_getaffinity(0)) // world.local_size)
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("high" if use_cuda else "highest")
    if config.deterministic and use_cuda:
        # Read by cuBLAS at its first call; a fixed workspace keeps the order of its sums.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    precision = config.precision
    if precision == "auto":
        precision = "bf16" if use_cuda or cpu_multiplies_bf16() else "fp32"
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    compiled = config.compile == "on" or (config.compile == "auto" and use_cuda)
    return Compute(device, dtype, threads, config.peak_flops or _known_peak(device, dtype), compiled, precision)


def logits_in_chunks(
    choice: Literal["auto", "whole", "chunks"], positions: int, vocabulary_size: int, device: torch.device
) -> bool:
    """Whether the loss is to hold the logits of a chunk of positions at a time: `TrainingConfig.logits`.

    On a CPU chunks are faster, too, where all logits together would leave its cache. On CUDA whole logits are, while
    they take little of the memory: two bytes a logit and four for its gradient.
    """
    if choice != "auto":
        return choice == "chunks"
    if device.type != "cuda":
        return positions * vocabulary_size * 4 > 1 << 20
    return positions * vocabulary_size * 6 > torch.cuda.get_device_properties(device).total_memory // 8


def cpu_multiplies_bf16(cpuinfo: str = "/proc/cpuinfo") -> bool:
    """Whether the CPU has bf16 products of its own (AVX512_BF16 or AMX); elsewhere they are emulated and slow."""
    try:
        text = Path(cpuinfo).read_text()
    except OSError:
        return False
    flags = {flag for line in text.splitlines() if line.startswith("flags") for flag in line.split()}
    return bool(flags & {"avx512_bf16", "amx_bf16"})


def peak_memory_bytes(device: torch.device) -> int:
    """Largest memory held so far: of the process on a CPU, of the allocator on CUDA."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _known_peak(device: torch.device, dtype: torch.dtype) -> float | None:
    if device.type != "cuda" or dtype != torch.bfloat16:
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for key, peak in _PEAK_BF16.items() if key in name), None)
