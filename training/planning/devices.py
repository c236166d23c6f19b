"""What devices have and can: memory and peak arithmetic by name, from the makers' data sheets."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

GB = 10**9
GIB = 1 << 30


@dataclass(frozen=True)
class DeviceSpec:
    """One device of a kind."""

    name: str
    kind: Literal["cuda", "cpu"]
    memory_bytes: int
    """What a program can allocate: on a GPU less than the data sheet's figure by some 2 % of reserves."""
    peak_flops: dict[str, float]
    """Dense peak FLOP/s by precision (fp32: as matrix products run with TF32); empty where it is not known."""
    source: str = ""

    def peak(self, precision: str) -> float | None:
        """Peak FLOP/s in a precision, None where it is not known; a device without fp8 computes it at its bf16 peak."""
        return self.peak_flops.get(precision) or (self.peak_flops.get("bf16") if precision == "fp8" else None)


def _gpu(name: str, gigabytes: float, tf32: float, bf16: float, fp8: float | None, source: str) -> DeviceSpec:
    """A GPU by the figures of its data sheet: gigabytes, and teraFLOP/s without sparsity."""
    peaks = {"fp32": tf32 * 1e12, "bf16": bf16 * 1e12} | ({"fp8": fp8 * 1e12} if fp8 else {})
    return DeviceSpec(name, "cuda", int(gigabytes * GIB * _USABLE), peaks, source)


# Of the nominal GiB (an "80 GB" H100 has 80 GiB of chips): what the driver calls total lies 1 to 2 % below, and
# the CUDA context and the libraries take some 500 MB of the rest.
_USABLE = 0.975

DEVICES: dict[str, DeviceSpec] = {
    "h200": _gpu("NVIDIA H200", 141e9 / GIB, 494.5, 989, 1979, "NVIDIA H200 Tensor Core GPU data sheet (SXM)"),
    "h100": _gpu("NVIDIA H100", 80, 494.5, 989, 1979, "NVIDIA H100 Tensor Core GPU data sheet (SXM)"),
    "h100-pcie": _gpu("NVIDIA H100 PCIe", 80, 378, 756, 1513, "NVIDIA H100 Tensor Core GPU data sheet (PCIe)"),
    "a100": _gpu("NVIDIA A100 80GB", 80, 156, 312, None, "NVIDIA A100 Tensor Core GPU data sheet (80 GB)"),
    "a100-40gb": _gpu("NVIDIA A100 40GB", 40, 156, 312, None, "NVIDIA A100 Tensor Core GPU data sheet (40 GB)"),
    "l40s": _gpu("NVIDIA L40S", 48, 183, 362, 733, "NVIDIA L40S GPU data sheet"),
    "l4": _gpu("NVIDIA L4", 24, 60, 121, 242.5, "NVIDIA L4 Tensor Core GPU data sheet"),
    "a10": _gpu("NVIDIA A10", 24, 62.5, 125, None, "NVIDIA A10 Tensor Core GPU data sheet"),
}
"""GPUs by their short names."""


def find_device(name: str) -> DeviceSpec:
    """The device of a short name (`h100`), of a name that contains one (`NVIDIA H100 80GB HBM3`), or `cpu`.

    `cpu` is this machine. Raises ValueError listing what is known.
    """
    if name.lower() == "cpu":
        return this_cpu()
    words = name.lower().replace("nvidia", "").replace("-", " ").split()
    if "h100" in words and "pcie" in words:
        return DEVICES["h100-pcie"]
    if "a100" in words and any(word.startswith("40") for word in words):
        return DEVICES["a100-40gb"]
    for key in DEVICES:
        if key in words:
            return DEVICES[key]
    raise ValueError(f"the device {name!r} is unknown; there are cpu, {', '.join(DEVICES)}")


def this_device(kind: Literal["auto", "cpu", "cuda"] = "auto") -> DeviceSpec:
    """The device of this machine that a run with `training.device` takes, with its whole memory."""
    if kind == "cpu" or not torch.cuda.is_available():
        return this_cpu()
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    try:
        known = find_device(properties.name)
    except ValueError:
        known = DeviceSpec(properties.name, "cuda", 0, {})
    return DeviceSpec(properties.name, "cuda", properties.total_memory, known.peak_flops, known.source)


def this_cpu() -> DeviceSpec:
    """This machine without its GPUs: the memory that it or the control group of this process has."""
    return DeviceSpec("CPU of this machine", "cpu", _machine_memory(), {}, "measured on this machine")


def free_memory(device: torch.device) -> int:
    """Bytes that can be allocated on a device of this machine now."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # What torch's allocator holds without using it can be used again.
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + unused)
    pages = _meminfo("MemAvailable")
    return min(pages, _machine_memory()) if pages is not None else _machine_memory()


def _machine_memory() -> int:
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            return min(whole, int(Path(path).read_text()))
        except (OSError, ValueError):
            continue
    return whole


def _meminfo(field: str) -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":")), None)
