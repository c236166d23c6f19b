"""The peak memory and processor time of a command with all its processes, and the most disk, sampled as it runs."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

SAMPLE_SECONDS = 0.05
SAMPLES_A_DISK_SAMPLE = 10


@dataclass
class Peak:
    """The most that was seen. Resident memory counts files mapped into memory, and shared pages once a process."""

    process_bytes: int = 0  # the largest process
    tree_bytes: int = 0  # all processes together
    anonymous_bytes: int = 0  # the same without what lies in files, which the system may drop at any time
    disk_bytes: int = 0
    seconds: dict[int, float] = field(default_factory=dict)  # of the processor, by process

    @property
    def cpu_seconds(self) -> float:
        """Processor time of all processes; what one used after its last sample is missing."""
        return sum(self.seconds.values())

    def see(self, process: psutil.Process) -> None:
        """Take a sample of the process and its descendants."""
        sizes, shared = [], 0
        with contextlib.suppress(psutil.NoSuchProcess):
            for member in [process, *process.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    memory = member.memory_info()
                    sizes.append(memory.rss)
                    shared += getattr(memory, "shared", 0)  # of Linux: file-backed pages
                    times = member.cpu_times()
                    self.seconds[member.pid] = times.user + times.system
        self.process_bytes = max(self.process_bytes, *sizes, 0)
        self.tree_bytes = max(self.tree_bytes, sum(sizes))
        self.anonymous_bytes = max(self.anonymous_bytes, sum(sizes) - shared)


def disk_bytes(folder: Path) -> int:
    """What the files of a folder take on disk."""
    return sum(_sizes(str(folder)))


def _sizes(folder: str) -> Iterator[int]:
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _sizes(entry.path)
            else:
                with contextlib.suppress(FileNotFoundError):
                    yield entry.stat(follow_symlinks=False).st_blocks * 512


def run_measured(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> tuple[str, Peak]:
    """Run a command to its end: what it printed, and its peak; `folder` is where it writes.

    Raises RuntimeError with the end of what it said where it fails.
    """
    peak = Peak()
    said = folder.with_name(folder.name + ".log")
    with said.open("w", encoding="utf-8") as errors:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env={**environment})
        process = psutil.Process(child.pid)
        samples = 0
        while child.poll() is None:
            peak.see(process)
            if samples % SAMPLES_A_DISK_SAMPLE == 0:
                peak.disk_bytes = max(peak.disk_bytes, disk_bytes(folder))
            samples += 1
            time.sleep(SAMPLE_SECONDS)
        assert child.stdout is not None
        printed = child.stdout.read()  # one line: it cannot fill the pipe
    peak.disk_bytes = max(peak.disk_bytes, disk_bytes(folder))
    if child.returncode:
        end = said.read_text(encoding="utf-8", errors="replace")[-2000:]
        raise RuntimeError(f"{' '.join(command)} ended with {child.returncode}:\n{end}")
    return printed, peak
