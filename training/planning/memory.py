"""The memory that a run takes on each device."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

import torch

from training.config import ModelConfig, TrainingRun
from training.devices import cpu_multiplies_bf16
from training.models import Model, build
from training.planning.devices import DeviceSpec
from training.planning.rehearsal import Rehearsal, rehearse
from training.planning.stepping import StepSettings

Precision = Literal["fp32", "bf16", "fp8"]

KINDS = ("parameters", "gradients", "optimizer", "average", "activations", "logits", "workspace", "batch")
"""What memory goes to. activations: what the forward pass keeps for the backward pass, with the copies of weights in
another dtype; logits: what is as large as the vocabulary in loss and head, the head's gradient in the making included;
workspace: intermediate results, buffers of the processes' exchange, position tables."""

_CUBLAS_BYTES = 32 << 20  # cuBLAS' workspace, which torch takes from its own allocator (the default on Hopper)


@dataclass(frozen=True)
class Memory:
    """What one device holds at the worst moment of a step."""

    parts: dict[str, int]
    """Bytes of each of KINDS at that moment; they add up to `total`."""
    moment: str
    """The phase of the worst moment: forward, backward, backward end or update."""
    whole: dict[str, int]
    """Bytes of parameters, gradients, optimizer and average at their most, whether at that moment or not."""
    device_batch_size: int
    upper_bound: bool = False
    """Whether the step takes at most this, and not about this: see `rehearsal.rehearse`."""

    @property
    def total(self) -> int:
        """Bytes at the worst moment."""
        return sum(self.parts.values())

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {"total": self.total, **dataclasses.asdict(self)}


def sketch(run: TrainingRun) -> Model:
    """The model without data; not to be changed, since all that ask for it share it."""
    return _sketched(run.model, run.model_vocabulary)


@functools.lru_cache(maxsize=8)
def _sketched(model: ModelConfig, vocabulary_size: int) -> Model:
    with torch.device("meta"):
        return build(model, vocabulary_size)


def precision_of(run: TrainingRun, device: DeviceSpec) -> Precision:
    """The arithmetic that `training.precision` comes to on a device."""
    choice = run.training.precision
    if choice != "auto":
        return choice
    return "bf16" if device.kind == "cuda" or cpu_multiplies_bf16() else "fp32"


def share_of(run: TrainingRun, processes: int) -> int:
    """Sequences of a step that one process has; raises ValueError where they do not divide."""
    share, rest = divmod(run.training.batch_size, processes)
    if rest:
        raise ValueError(f"training.batch_size {run.training.batch_size} does not divide among {processes} processes")
    return share


def step_settings(run: TrainingRun, device: DeviceSpec, processes: int, device_batch_size: int) -> StepSettings:
    """What decides the memory of one process of a run on a device."""
    config, cuda = run.training, device.kind == "cuda"
    precision = precision_of(run, device)
    if config.logits == "auto":
        # As `training.devices.logits_in_chunks` decides it on the device itself.
        positions = device_batch_size * run.sequence_length * run.objective.predicted
        bytes_whole = positions * run.vocabulary_size * 6
        chunks = not cuda or bytes_whole > device.memory_bytes // 8
    else:
        chunks = config.logits == "chunks"
    return StepSettings(
        run.model,
        run.objective,
        run.optimizer,
        run.vocabulary_size,
        run.sequence_length,
        device_batch_size,
        share_of(run, processes) // device_batch_size,
        device.kind,
        precision,
        config.compile == "on" or (config.compile == "auto" and cuda),
        chunks,
        config.recompute,
        config.recompute_every,
        config.ema_decay is not None,
        run.tokenizer_path,
        sparse=not cuda and processes == 1,
        bf16_parameters=_sharded(run, processes) and cuda and precision != "fp32",
    )


def estimate_memory(
    run: TrainingRun, device: DeviceSpec, processes: int, device_batch_size: int, *, bound: bool = False
) -> Memory:
    """What each of `processes` devices holds with this micro-batch; `bound`: at most, which is known at once.

    Raises ValueError where the batch does not divide.
    """
    share = share_of(run, processes)
    if share % device_batch_size:
        raise ValueError(
            f"training.device_batch_size {device_batch_size} does not divide the {share} sequences that one of "
            f"{processes} processes has of training.batch_size {run.training.batch_size}"
        )
    rehearsal = rehearse(step_settings(run, device, processes, device_batch_size), bound)
    return memory_of(run, device, processes, device_batch_size, rehearsal)


def memory_of(
    run: TrainingRun, device: DeviceSpec, processes: int, device_batch_size: int, rehearsal: Rehearsal
) -> Memory:
    """The worst moment of a rehearsed step, with what several processes change and what a device takes for itself."""
    whole = static_bytes(run, processes)
    spread = {phase: _spread(run, device, processes, held, whole, phase) for phase, held in rehearsal.peaks.items()}
    moment = max(spread, key=lambda phase: spread[phase].total())
    parts = spread[moment]
    if device.kind == "cuda":
        parts["workspace"] += _CUBLAS_BYTES
    return Memory(
        {kind: parts[kind] for kind in KINDS}, moment or "update", whole, device_batch_size, rehearsal.upper_bound
    )


def is_hopeless(run: TrainingRun, processes: int, limit: int) -> bool:
    """Whether what no micro-batch changes is more than `limit` bytes.

    Without the gradients, which do not always lie in memory together with the rest.
    """
    static = static_bytes(run, processes)
    return sum(static.values()) - static["gradients"] > limit


def static_bytes(run: TrainingRun, processes: int = 1) -> dict[str, int]:
    """Bytes of parameters, gradients, optimiser state and average in one process: sums over the parameters, exactly."""
    model = sketch(run)
    numbers = model.parameters_count()
    bigrams = model.bigrams.weight if model.bigrams is not None else None
    state = (bigrams.shape[0] if bigrams is not None else 0) * 4
    state_numbers = {"adamw": 2, "lamb": 2, "lion": 1, "sgd": 1}
    for name, parameter in model.named_parameters():
        if parameter is bigrams:
            continue
        if run.optimizer.name == "muon":
            moments = 1 if "blocks." in name and parameter.ndim == 2 else 2
        else:
            moments = state_numbers[run.optimizer.name]
        state += parameter.numel() * 4 * moments
    average = numbers * 4 if run.training.ema_decay is not None else 0
    split = processes if _sharded(run, processes) else 1
    parts = {"parameters": numbers * 4, "gradients": numbers * 4, "optimizer": state, "average": average}
    return {kind: -(-size // split) for kind, size in parts.items()}


def _sharded(run: TrainingRun, processes: int) -> bool:
    return run.training.parallel == "fsdp" and processes > 1


def _spread(
    run: TrainingRun, device: DeviceSpec, processes: int, held: Counter[str], whole: dict[str, int], phase: str
) -> Counter[str]:
    """What is held in one of several processes, from what is held in one alone."""
    parts = held.copy()
    if processes == 1:
        return parts
    sizes = [parameter.numel() for parameter in sketch(run).parameters()]
    if not _sharded(run, processes):
        # The buckets of DDP stay from step to step, and each gradient is made beside its bucket.
        parts["gradients"] = whole["gradients"]
        parts["workspace"] += 4 * max(sizes)
        return parts
    for kind in ("parameters", "optimizer", "average"):
        parts[kind] = whole[kind]
    parts["gradients"] = whole["gradients"] if held["gradients"] else 0
    if phase == "update":
        # Each process updates its own shards; Muon's whole matrices are shared out among them.
        parts["workspace"] //= processes
    parts["workspace"] += _gathered_bytes(run, device)
    return parts


def _gathered_bytes(run: TrainingRun, device: DeviceSpec) -> int:
    """What FSDP2 has whole at a time: the root's parameters, two blocks (one fetched ahead), the gradients of one.

    A gradient is there in the dtype of the gathered parameters, and in float32 on its way to the other processes.
    """
    model = sketch(run)
    width = 2 if device.kind == "cuda" and precision_of(run, device) != "fp32" else 4
    block = sum(parameter.numel() for parameter in model.blocks[0].parameters())
    inside = {id(p) for block in model.blocks for p in block.parameters()}
    inside |= {id(model.bigrams.weight)} if model.bigrams is not None else set()
    if not run.model.tied_embeddings and run.model.architecture == "transformer":
        inside.add(id(model.embedding.weight))
    root = sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in inside)
    return width * (root + 2 * block) + (width + 4) * max(root, block)
