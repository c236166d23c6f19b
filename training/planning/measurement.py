"""The memory and the time that a real step takes on this machine."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from training.planning.stepping import Step, StepSettings


def _unmarked(name: str) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext()


def measure_peak(settings: StepSettings, device: torch.device) -> int:
    """Bytes that the allocator had given out at the worst moment of a step; on a CPU told by torch's profiler."""
    step = Step(settings, device)
    step.model.train()
    if settings.compiled:
        torch._dynamo.reset()
        step.loss = torch.compile(step.loss, dynamic=False)  # type: ignore[call-overload]
    rows = step.rows()
    for _ in range(2):
        step.take(rows, _unmarked)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        step.take(rows, _unmarked)
        return int(torch.cuda.max_memory_allocated(device))
    kept = [*step.model.parameters(), *step.model.buffers(), *step.optimizer.state_tensors().values(), *rows.values()]
    if step.average is not None:
        kept += step.average.state_tensors().values()
    gc.collect()  # what is garbage already must not be freed, and counted, in here
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step.take(rows, _unmarked)
    assert profiler.profiler is not None
    assert profiler.profiler.kineto_results is not None
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    running = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        running += event.nbytes()
        most = max(most, running)
    return _storage_bytes(kept) + most


def measure_seconds(settings: StepSettings, device: torch.device, seconds: float = 10.0) -> float:
    """Seconds of one step: the best of several after a first, which makes what is made once."""
    step = Step(settings, device)
    step.model.train()
    if settings.compiled:
        step.loss = torch.compile(step.loss, dynamic=False)  # type: ignore[call-overload]
    rows = step.rows()
    step.take(rows, _unmarked)
    best, begun = float("inf"), time.perf_counter()
    while best == float("inf") or time.perf_counter() - begun < seconds:
        started = time.perf_counter()
        step.take(rows, _unmarked)
        best = min(best, time.perf_counter() - started)
    return best


def _storage_bytes(tensors: Iterable[Tensor]) -> int:
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())
