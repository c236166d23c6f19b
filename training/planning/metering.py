"""The memory that a computation holds over time, counted by storage.

`StorageMeter` sees every tensor that an operation returns and when its storage dies. Over fake tensors
(`torch._subclasses.FakeTensorMode`) this costs no memory and no arithmetic, so that the training step of a large model
is played through in seconds. What it does not see is memory that a kernel takes and gives back within one operation.
"""

from __future__ import annotations

import contextlib
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class StorageMeter(TorchDispatchMode):
    """Counts the bytes of living storages by kind while it is entered.

    `held` are the bytes now, by kind; `peaks` those at the moment of each phase when they were most. Activations and
    workspace with a dimension of `vocabulary_size` count as logits.
    """

    def __init__(self, vocabulary_size: int = 0) -> None:
        super().__init__()
        self._vocabulary_size = vocabulary_size
        self.held: Counter[str] = Counter()
        self.peaks: dict[str, Counter[str]] = {}
        self._phase, self._kind = "", "workspace"
        self._paused = False
        self._storages: dict[int, tuple[str, int]] = {}

    @contextlib.contextmanager
    def phase(self, name: str, kind: str = "workspace") -> Iterator[None]:
        """Count what happens within as phase `name`, and what is allocated as `kind`."""
        before = self._phase, self._kind
        self._phase, self._kind = name, kind
        self._look()
        try:
            yield
        finally:
            self._phase, self._kind = before

    def enter_phase(self, name: str) -> None:
        """Go over to phase `name` within the one that is open."""
        self._phase = name

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Overlook what is allocated within."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    def claim(self, tensors: Iterable[Tensor], kind: str, fresh_only: bool = False) -> None:
        """Count the storages of tensors as `kind` from now on, of `fresh_only` those that were overlooked so far."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            known = self._storages.get(storage._cdata)
            if known is None:
                self._add(storage, kind)
            elif not fresh_only:
                self.held[known[0]] -= known[1]
                self.held[kind] += known[1]
                self._storages[storage._cdata] = (kind, known[1])
        self._look()

    def surge(self, extra: Counter[str], suffix: str = "") -> None:
        """Look at a moment when there is something beyond what is held, in the open phase or one named after it."""
        held = self.held.copy()
        held.update(extra)
        self._note(" ".join(filter(None, (self._phase, suffix))), held)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation and count what it returns."""
        result = func(*args, **(kwargs or {}))
        if not self._paused:
            for leaf in tree_leaves(result):
                if isinstance(leaf, Tensor) and leaf.layout is torch.strided:
                    storage = leaf.untyped_storage()
                    if storage._cdata not in self._storages:
                        self._add(storage, self._kind_of(leaf))
            self._look()
        return result

    def _kind_of(self, tensor: Tensor) -> str:
        of_the_head = self._vocabulary_size in tensor.shape[-2:] and self._phase in ("forward", "backward")
        return "logits" if of_the_head else self._kind

    def _add(self, storage: torch.UntypedStorage, kind: str) -> None:
        key, size = storage._cdata, known_bytes(storage)
        self._storages[key] = (kind, size)
        self.held[kind] += size
        weakref.finalize(storage, self._freed, key)

    def _look(self) -> None:
        self._note(self._phase, self.held)

    def _note(self, phase: str, held: Counter[str]) -> None:
        peak = self.peaks.get(phase)
        if peak is None or held.total() > peak.total():
            self.peaks[phase] = held.copy()

    def _freed(self, key: int) -> None:
        kind, size = self._storages.pop(key)
        self.held[kind] -= size


def known_bytes(storage: torch.UntypedStorage) -> int:
    """The size of a storage; 0 for a random state within a compiled graph, whose size Dynamo leaves open."""
    size = storage.nbytes()
    return size if isinstance(size, int) else 0
