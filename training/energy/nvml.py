"""NVML: the energy counter of an NVIDIA GPU (Volta and later), in millijoules since its driver was loaded."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

METER = "NVML"
Reader = Callable[[], float]
"""The counters of some GPUs together, in joules."""


def energy_reader(uuids: Sequence[str]) -> Reader | None:
    """Return what reads the energy of the GPUs of these UUIDs; None where one of them cannot be read.

    That is so without nvidia-ml-py, without a driver, before Volta, and for a slice of a GPU (MIG).
    """
    if not uuids:
        return None
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByUUID(_named(uuid)) for uuid in uuids]
        for handle in handles:
            pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()
        return None
    return lambda: sum(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in handles) / 1e3


def _named(uuid: str) -> str:
    """A UUID as NVML writes it; torch leaves its beginning out."""
    return uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
