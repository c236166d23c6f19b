"""Processes of one run: who this one is, what they add up and agree on. torchrun starts them and starts them anew."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

TIMEOUT_MINUTES = 30.0
"""How long a process waits for another one in a collective operation."""

_LOST = (
    "connection closed by peer",
    "connection reset",
    "broken pipe",
    "timed out",
    "timeout",
    "remote process exited",
)


class PeerLost(ConnectionError):
    """Another process of the run ended or does not answer; this one cannot go on alone."""


@dataclass
class World:
    """The place of this process among all of them."""

    rank: int = 0
    local_rank: int = 0
    local_size: int = 1
    size: int = 1
    control: dist.ProcessGroup | None = field(default=None, init=False, repr=False, compare=False)
    """All processes over gloo: what is said here never waits for a GPU."""
    background: dist.ProcessGroup | None = field(default=None, init=False, repr=False, compare=False)
    """The same for the threads that write checkpoints, so that their messages do not mix with those of the steps."""

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

    def agree(self, flag: bool) -> bool:
        """Whether any process says yes; the same answer in all. Takes about 0.1 ms and leaves the GPU alone."""
        if self.size == 1:
            return flag
        votes = torch.tensor([flag], dtype=torch.uint8)
        dist.all_reduce(votes, dist.ReduceOp.MAX, group=self.control)
        return bool(votes)

    def gather(self, document: Any) -> list[Any]:
        """A JSON document of each process, in the order of their ranks; the same list in all."""
        if self.size == 1:
            return [document]
        ours = _encoded(document)
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(lengths, torch.tensor([len(ours)]), group=self.control)
        longest = max(int(length) for length in lengths)
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: len(ours)] = ours
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded, group=self.control)
        return [_decoded(part[: int(length)]) for part, length in zip(parts, lengths, strict=True)]

    def broadcast(self, document: Any) -> Any:
        """The main process's JSON document, in all; what the others hand in does not count."""
        if self.size == 1:
            return document
        ours = _encoded(document if self.is_main else None)
        length = torch.tensor([len(ours)])
        dist.broadcast(length, 0, group=self.control)
        if not self.is_main:
            ours = torch.empty(int(length), dtype=torch.uint8)
        dist.broadcast(ours, 0, group=self.control)
        return _decoded(ours)

    def wait(self) -> None:
        """Until every process has come here."""
        self.agree(False)

    @contextmanager
    def joined(self, device: torch.device, timeout_minutes: float = TIMEOUT_MINUTES) -> Iterator[None]:
        """Hold the process group for the length of the run: NCCL between GPUs, gloo between CPUs.

        Raises PeerLost when another process ends, or does not answer for `timeout_minutes`. (Under NCCL it is torchrun
        that notices first, and ends this process.)
        """
        if self.size == 1:
            yield
            return
        timeout = timedelta(minutes=timeout_minutes)
        try:
            self._meet(device, timeout)
            self.control = dist.new_group(backend="gloo", timeout=timeout)
            self.background = dist.new_group(backend="gloo", timeout=timeout)
            yield
        except RuntimeError as error:
            if not is_peer_lost(error):
                raise
            raise PeerLost(
                f"process {self.rank} of {self.size} lost the others ({_first_line(error)}): one has ended or does not "
                "answer. Start the same command again, or let torchrun do it with --max-restarts"
            ) from error
        finally:
            self.control = self.background = None
            # With a peer gone, NCCL would wait for it here; gloo does not.
            if dist.is_initialized() and (device.type != "cuda" or sys.exc_info()[0] is None):
                dist.destroy_process_group()

    def _meet(self, device: torch.device, timeout: timedelta) -> None:
        backend, device_id = ("nccl", device) if device.type == "cuda" else ("gloo", None)
        if device_id is not None:
            torch.cuda.set_device(device_id)
        place: dict[str, Any] = {}
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        if attempt != "0" and os.environ.get("GROUP_WORLD_SIZE") == "1":
            # torchrun keeps its store over a restart, and in it the addresses of the processes that died.
            store, rank, size = next(dist.rendezvous("env://", timeout=timeout))
            place = {"store": dist.PrefixStore(f"attempt-{attempt}", store), "rank": rank, "world_size": size}
        dist.init_process_group(backend, timeout=timeout, device_id=device_id, **place)


def is_peer_lost(error: BaseException) -> bool:
    """Whether an error says that another process of the group is gone."""
    if isinstance(error, dist.DistBackendError | dist.DistNetworkError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and "gloo" in text and any(sign in text for sign in _LOST)


def torchrun_command(
    module: str,
    arguments: Sequence[str],
    processes: int = 1,
    *,
    restarts: int = 0,
    nodes: int | str = 1,
    rendezvous: str | None = None,
    run_id: str = "headrace",
) -> list[str]:
    """The command line that starts a module in `processes` processes on this node, under torchrun where it is needed.

    When a process dies, torchrun ends the others and starts all of them anew, `restarts` times at most; each goes on
    from the newest checkpoint. With several `nodes` (a number, or a range such as "1:4" for an elastic run) the same
    command is started on each of them, and they meet at `rendezvous`, the "host:port" of one. Raises ValueError where
    that is missing.
    """
    if processes < 1 or restarts < 0:
        raise ValueError(f"processes must be at least 1 and restarts at least 0, got {processes} and {restarts}")
    several_nodes = str(nodes) != "1"
    if several_nodes and not rendezvous:
        raise ValueError(f"nodes is {nodes}: rendezvous must name the host:port at which they meet")
    if processes == 1 and not restarts and not several_nodes:
        return [sys.executable, "-m", module, *arguments]
    meeting = [f"--nnodes={nodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint={rendezvous}", f"--rdzv-id={run_id}"]
    # Several nodes cannot count restarts alike, so that each attempt needs a store of its own: see `World._meet`.
    own_store = ["env", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"] if several_nodes else []
    return [
        *own_store,
        *(sys.executable, "-m", "torch.distributed.run"),
        *(meeting if several_nodes else ["--standalone"]),
        *(f"--nproc-per-node={processes}", f"--max-restarts={restarts}"),
        *("--module", module, *arguments),
    ]


def _encoded(document: Any) -> Tensor:
    return torch.frombuffer(bytearray(json.dumps(document).encode()), dtype=torch.uint8)


def _decoded(content: Tensor) -> Any:
    return json.loads(content.numpy().tobytes())


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]
