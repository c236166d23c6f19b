"""RAPL: the energy counters of processors, as Linux shows them under /sys/class/powercap.

They are those of Intel (Running Average Power Limit) and of AMD since Zen. A counter is that of a whole package or of
its memory: what other processes use is in it. Reading has needed root's rights since CVE-2020-8694.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path("/sys/class/powercap")
METER = "RAPL, whole packages"


class Counter:
    """One counter in microjoules that begins anew at `limit`; `joules` counts on from where it was made."""

    def __init__(self, path: Path, limit: int) -> None:
        self.path, self.limit, self.joules = path, limit, 0.0
        self._last = int(path.read_text())

    def read(self) -> None:
        """Add what was used since the last reading, which must not lie a whole round of the counter back."""
        now = int(self.path.read_text())
        used = now - self._last
        self.joules += (used if used >= 0 else used + self.limit) / 1e6
        self._last = now


class Powercap:
    """The counters of all packages and of their memory; `readable` where there are any that this process may read."""

    def __init__(self, root: Path = ROOT) -> None:
        self._packages: list[Counter] = []
        self._memories: list[Counter] = []
        # Other control types there (intel-rapl-mmio) count the same once more; a package holds its cores already.
        for zone in sorted(root.glob("intel-rapl:*")):
            try:
                name = (zone / "name").read_text().strip()
                kind = self._packages if name.startswith("package") else self._memories if name == "dram" else None
                if kind is not None:
                    kind.append(Counter(zone / "energy_uj", int((zone / "max_energy_range_uj").read_text())))
            except (OSError, ValueError):
                continue

    @property
    def readable(self) -> bool:
        """Whether there is a package to read."""
        return bool(self._packages)

    def read(self) -> None:
        """Read all counters. Raises OSError or ValueError where one has gone."""
        for counter in (*self._packages, *self._memories):
            counter.read()

    @property
    def joules(self) -> dict[str, float]:
        """`cpu_joules` of the packages and, where it is counted apart, `memory_joules`, up to the last reading."""
        found = {}
        if self._packages:
            found["cpu_joules"] = sum(counter.joules for counter in self._packages)
        if self._memories:
            found["memory_joules"] = sum(counter.joules for counter in self._memories)
        return found
