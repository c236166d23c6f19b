"""The meter of a process or a stage: processor time, and energy where the machine counts it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from training.energy import nvml, powercap

PERIOD_SECONDS = 30.0
"""Between two readings of the counters of processors. They begin anew after 65,536 to 262,144 J: minutes under load."""


class Meter:
    """Counts from its entry to its exit, or to `read`; a meter that fails on the way says nothing any more.

    `gpus` are UUIDs as torch or NVML write them. It holds a thread while it runs, where there is a counter to watch.
    """

    def __init__(self, gpus: Sequence[str] = (), root: Path = powercap.ROOT, processors: bool = True) -> None:
        self._root = root if processors else None
        self._gpus = list(gpus)
        self._powercap: powercap.Powercap | None = None
        self._gpu_reader: nvml.Reader | None = None
        self._gpu_begin = 0.0
        self._lock = threading.Lock()
        self._done = threading.Event()

    def __enter__(self) -> Meter:
        """Start to count."""
        if self._root is not None:
            found = powercap.Powercap(self._root)
            self._powercap = found if found.readable else None
        self._gpu_reader = nvml.energy_reader(self._gpus)
        if self._gpu_reader is not None:
            self._gpu_begin = self._gpu_reader()
        if self._powercap is not None:
            threading.Thread(target=self._watch, name="energy", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the thread; what was read stays."""
        self._done.set()

    def read(self) -> dict[str, float]:
        """Joules since the entry: `cpu_joules`, `memory_joules`, `gpu_joules`, each where it is metered."""
        joules: dict[str, float] = {}
        with self._lock:
            if self._powercap is not None:
                try:
                    self._powercap.read()
                    joules |= self._powercap.joules
                except (OSError, ValueError):
                    self._powercap = None
            if self._gpu_reader is not None:
                try:
                    joules["gpu_joules"] = self._gpu_reader() - self._gpu_begin
                except Exception:  # NVML's own errors: a GPU that fell off the bus must not take the run with it
                    self._gpu_reader = None
        return joules

    def _watch(self) -> None:
        while not self._done.wait(PERIOD_SECONDS):
            self.read()


def names(joules: dict[str, float]) -> dict[str, str]:
    """`cpu_meter` and `gpu_meter`: what counted these joules."""
    found = {}
    if "cpu_joules" in joules:
        found["cpu_meter"] = powercap.METER
    if "gpu_joules" in joules:
        found["gpu_meter"] = nvml.METER
    return found


def metered(meter: Meter) -> dict[str, float | str]:
    """A reading, and what counted it."""
    joules = meter.read()
    return {**{name: round(value, 3) for name, value in joules.items()}, **names(joules)}
