"""What a run has used so far: processor time, and energy where the machine counts it."""

from __future__ import annotations

import platform
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch

from training.callbacks import Callback, Row
from training.distributed import World
from training.energy import Meter
from training.energy.meter import names
from training.trainer import Trainer

METERED = frozenset({"train/cpu_seconds", "train/cpu_joules", "train/memory_joules", "train/gpu_joules"})
"""Metrics of this callback, each where it is known; the machine decides them."""


def meter_of(device: torch.device, world: World) -> Meter:
    """The meter of one process: of its own GPU and, in the first process of a machine, of the processors."""
    gpus = [str(torch.cuda.get_device_properties(device).uuid)] if device.type == "cuda" else []
    return Meter(gpus, processors=world.local_rank == 0)


class Energy(Callback):
    """Adds `train/cpu_seconds` and, of what is metered, `train/<what>_joules` to the row, summed over all processes.

    What earlier processes of the run used up to its checkpoint is counted with it; a part that one of them could not
    meter is left out from then on, since half a sum says nothing. A rollback gives nothing back.
    """

    name = "energy"

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._cpu_begin = time.process_time()
        self._running = False
        self._before: dict[str, float] | None = None
        self._sums: dict[str, float] = {}
        self._memory = 0

    def on_start(self, trainer: Trainer) -> None:
        """From here on the sums are this process's own business."""
        self._running = True

    def on_step_end(self, trainer: Trainer, row: Row) -> None:
        """Read the meters when a line or a checkpoint is due, in all processes at the same step."""
        log = "train/tokens_per_second" in row
        if log or trainer.due(trainer.run.training.checkpoint_every):
            self._read(trainer)
        if log:
            row.update({f"train/{name}": value for name, value in self._sums.items()})

    def on_stop(self, trainer: Trainer) -> None:
        """Read them for the checkpoint that follows."""
        self._read(trainer)

    def on_end(self, trainer: Trainer) -> None:
        """Read them for the result."""
        self._read(trainer)

    def state(self) -> dict[str, Any]:
        """The sums."""
        return dict(self._sums)

    def load_state(self, state: dict[str, Any]) -> None:
        """Count on from what was used up to a checkpoint; one that the run goes back to tells nothing new."""
        if not self._running:
            self._before = dict(state)

    def facts(self, trainer: Trainer) -> dict[str, Any]:
        """What the costs of the run follow from, for its result: sums, meters, device, peak of the machine's memory."""
        return {
            **{name: round(value, 3) for name, value in self._sums.items()},
            **names(self._sums),
            "device_name": device_name(trainer.compute.device),
            "host_memory_bytes": self._memory,
        }

    def _read(self, trainer: Trainer) -> None:
        own = {"cpu_seconds": time.process_time() - self._cpu_begin, **self._meter.read()}
        world = trainer.world
        every = world.gather({**own, "memory": host_memory_bytes(), "local_rank": world.local_rank})
        self._memory = sum(int(one["memory"]) for one in every)
        first = [one for one in every if one["local_rank"] == 0]
        # Each process has a GPU of its own; the processors and the memory are those of its machine's first process.
        askers = {"cpu_seconds": every, "cpu_joules": first, "memory_joules": first, "gpu_joules": every}
        sums = {name: sum(one[name] for one in group) for name, group in askers.items() if _all_have(name, group)}
        if self._before is not None:
            sums = {name: value + self._before[name] for name, value in sums.items() if name in self._before}
        self._sums = sums


def _all_have(name: str, group: list[dict[str, Any]]) -> bool:
    return all(name in one for one in group)


def host_memory_bytes() -> int:
    """Peak memory of this process on the machine, whatever it trains on."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def device_name(device: torch.device) -> str:
    """The name of a GPU, or of the processor."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    found = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return found or platform.processor() or platform.machine()
