"""What a run computes on: device, threads, precision, peak, memory."""

from __future__ import annotations

import os
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

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

    @property
    def precision(self) -> str:
        """The dtype's name in a config."""
        return "bf16" if self.dtype == torch.bfloat16 else "fp32"

    def autocast(self) -> torch.autocast:
        """The arithmetic of forward passes; nothing in float32."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def synchronize(self) -> None:
        """Wait until the device has done what was asked of it, so that a clock tells the truth."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def resolve(config: TrainingConfig, world: World) -> Compute:
    """Choose device, precision and threads, and set torch's globals for them.

    Raises ValueError where CUDA is asked for and there is none.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("training.device is cuda, but torch sees no CUDA device here; set it to auto or cpu")
    use_cuda = config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available())
    device = torch.device("cuda", world.local_rank) if use_cuda else torch.device("cpu")
    threads = config.threads or max(1, len(os.sched_getaffinity(0)) // world.local_size)
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("high" if use_cuda else "highest")
    wanted = config.precision
    if wanted == "auto":
        wanted = "bf16" if use_cuda or cpu_multiplies_bf16() else "fp32"
    dtype = torch.bfloat16 if wanted == "bf16" else torch.float32
    compiled = config.compile == "on" or (config.compile == "auto" and use_cuda)
    return Compute(device, dtype, threads, config.peak_flops or _known_peak(device, dtype), compiled)


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
