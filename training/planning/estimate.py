"""The plan of a run: size, arithmetic, memory, time and cost, and what to change where it does not fit."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from training import objectives
from training.config import SpecialTokens, TrainingRun
from training.models import Model
from training.planning.devices import DeviceSpec
from training.planning.memory import (
    Memory,
    estimate_memory,
    is_hopeless,
    share_of,
    sketch,
    static_bytes,
    step_settings,
)
from training.planning.microbatch import divisors_from, largest_by_bound, largest_that_fits

ASSUMED_MFU = 0.40
"""Share of the peak arithmetic that a run is taken to reach where nobody says better."""


@dataclass(frozen=True)
class Plan:
    """What is known of a run before it starts. Sizes in bytes, times in hours."""

    parameters: int
    parameters_by_part: dict[str, int]
    """embedding (with positions), bigrams, attention, mlp, norms, head (0 where it is tied); they add up."""
    flops_per_token: int
    """Forward and backward, as in PaLM, appendix B; causal attention counted in full."""
    steps: int
    tokens_per_step: int
    tokens: int
    device: str
    devices: int
    device_memory: int
    parallel: str
    precision: str
    compiled: bool
    recompute: str
    logits: str
    device_batch_size: int
    micro_batches: int
    memory: Memory
    fits: bool
    changes: tuple[dict[str, Any], ...]
    """Where it does not fit: settings that would, the least costly first, each with the memory that it takes."""
    mfu: float | None
    mfu_source: str
    """given, assumed or measured."""
    seconds_per_step: float | None
    hours: float | None
    """To the end of the run, without evaluation and checkpoints; None where nothing tells how fast the device is."""
    price_per_device_hour: float | None
    cost: float | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {**dataclasses.asdict(self), "memory": self.memory.to_dict()}


def plan(
    run: TrainingRun,
    device: DeviceSpec,
    devices: int = 1,
    *,
    mfu: float | None = None,
    price: float | None = None,
    seconds_per_step: float | None = None,
) -> Plan:
    """Plan a run on `devices` of a kind; nothing of its data is read.

    `mfu` is by default 0.40 on a GPU; `seconds_per_step` is a measured one, and goes before it. `price` per device hour
    is by default the run's own. Raises ValueError where the batch does not divide.
    """
    config, model = run.training, sketch(run)
    share = share_of(run, devices)
    device_batch_size, memory = _micro_batch(run, device, devices, share)
    fits = memory.total <= device.memory_bytes
    settings = step_settings(run, device, devices, device_batch_size)
    tokens_per_step = config.batch_size * run.sequence_length
    task = objectives.build(run.objective, objectives.Setting(run.vocabulary_size, 0, SpecialTokens(*range(4))))
    flops = task.flops_per_token(model, run.sequence_length)
    peak = config.peak_flops or device.peak(settings.precision)
    source = "measured" if seconds_per_step is not None else "assumed" if mfu is None else "given"
    if seconds_per_step is None and peak is not None:
        mfu = ASSUMED_MFU if mfu is None else mfu
        seconds_per_step = tokens_per_step * flops / (mfu * peak * devices)
    elif seconds_per_step is not None:
        mfu = tokens_per_step * flops / (seconds_per_step * peak * devices) if peak is not None else None
    hours = None if seconds_per_step is None else config.steps * seconds_per_step / 3600
    price = config.price_per_device_hour if price is None else price
    return Plan(
        parameters=model.parameters_count(),
        parameters_by_part=_by_part(model),
        flops_per_token=flops,
        steps=config.steps,
        tokens_per_step=tokens_per_step,
        tokens=config.steps * tokens_per_step,
        device=device.name,
        devices=devices,
        device_memory=device.memory_bytes,
        parallel=config.parallel if devices > 1 else "none",
        precision=settings.precision,
        compiled=settings.compiled,
        recompute=settings.recompute,
        logits="chunks" if settings.chunks else "whole",
        device_batch_size=device_batch_size,
        micro_batches=settings.micro_batches,
        memory=memory,
        fits=fits,
        changes=() if fits else tuple(_changes(run, device, devices, device_batch_size)),
        mfu=mfu if seconds_per_step is not None else None,
        mfu_source=source,
        seconds_per_step=seconds_per_step,
        hours=hours,
        price_per_device_hour=price,
        cost=None if price is None or hours is None else price * hours * devices,
    )


def _micro_batch(run: TrainingRun, device: DeviceSpec, devices: int, share: int) -> tuple[int, Memory]:
    """The micro-batch of a run and the memory that it takes."""
    choice = run.training.device_batch_size
    # What cannot fit at all need not be known to the byte.
    hopeless = is_hopeless(run, devices, device.memory_bytes)
    if choice == "auto":
        memory = largest_that_fits(run, device, devices, device.memory_bytes)
        memory = memory or estimate_memory(run, device, devices, 1, bound=hopeless)
        return memory.device_batch_size, memory
    size = choice or share
    return size, estimate_memory(run, device, devices, size, bound=hopeless)


def _by_part(model: Model) -> dict[str, int]:
    parts = dict.fromkeys(("embedding", "bigrams", "attention", "mlp", "norms", "head"), 0)
    for name, parameter in model.named_parameters():
        if name.startswith("bigrams."):
            part = "bigrams"
        elif "norm" in name:
            part = "norms"
        elif "blocks." in name:
            part = "attention" if "attention." in name else "mlp"
        else:
            part = "embedding" if "embedding" in name or "positions" in name else "head"
        parts[part] += parameter.numel()
    return parts


def _changes(run: TrainingRun, device: DeviceSpec, devices: int, size: int) -> Iterator[dict[str, Any]]:
    """Settings that would fit, the least costly first: at most one of each kind, and combinations where none is enough.

    A smaller micro-batch costs next to nothing, whole logits a little, bf16 some digits, recomputation a sixth to a
    third of the time, and sharding other devices. What fits by the upper bound of its memory fits.
    """
    found = False
    if not is_hopeless(run, devices, device.memory_bytes):
        for change in _one_device(run, device, devices, size):
            found = True
            yield change
    if not found:
        yield from _more_devices(run, device, devices, size)


def _one_device(run: TrainingRun, device: DeviceSpec, devices: int, size: int) -> Iterator[dict[str, Any]]:
    settings = step_settings(run, device, devices, size)
    singles: list[dict[str, Any]] = []
    if not settings.chunks:
        singles.append({"logits": "chunks"})
    if settings.precision == "fp32":
        singles.append({"precision": "bf16"})
    if settings.recompute == "none":
        singles.append({"recompute": "products"})
    if settings.recompute != "blocks" or settings.recompute_every > 1:
        singles.append({"recompute": "blocks", "recompute_every": 1})
    found = False
    if size > 1:
        fitting = largest_by_bound(run, device, devices, device.memory_bytes)
        if fitting is not None:
            found = True
            yield _told({"device_batch_size": fitting.device_batch_size}, fitting)
    for change in singles:
        memory = estimate_memory(_changed(run, change), device, devices, size, bound=True)
        if memory.total <= device.memory_bytes:
            found = True
            yield _told(change, memory)
            break
    if not found:
        together: dict[str, Any] = {}
        for change in singles:
            together = together | change
            memory = estimate_memory(_changed(run, together), device, devices, 1, bound=True)
            if memory.total <= device.memory_bytes:
                yield _told({"device_batch_size": 1, **together}, memory)
                return


def _more_devices(run: TrainingRun, device: DeviceSpec, devices: int, size: int) -> Iterator[dict[str, Any]]:
    """FSDP over as few devices as are enough, with the settings as they are, or with the least memory on each."""
    spare: dict[str, Any] = {"recompute": "blocks", "logits": "chunks"}
    for processes in (2**power for power in range(1, 11)):
        if processes < devices or run.training.batch_size % processes:
            continue
        sharded = _changed(run, {"parallel": "fsdp"})
        if sum(static_bytes(sharded, processes).values()) > device.memory_bytes:
            continue
        share = share_of(run, processes)
        best = None
        # From the least memory to the most, so that what cannot fit is known by one estimate.
        for change, micro in ((spare, 1), ({}, 1), ({}, divisors_from(size, share)[0])):
            memory = estimate_memory(_changed(sharded, change), device, processes, micro, bound=True)
            if memory.total > device.memory_bytes:
                break
            told = {"parallel": "fsdp", "devices": processes, **change}
            best = _told(told if micro == size else {**told, "device_batch_size": micro}, memory)
        if best is not None:
            yield best
            return


def _changed(run: TrainingRun, change: dict[str, Any]) -> TrainingRun:
    return dataclasses.replace(run, training=dataclasses.replace(run.training, **change))


def _told(change: dict[str, Any], memory: Memory) -> dict[str, Any]:
    return {"settings": change, "memory": memory.total}
