"""What one process of `benchmarks.training_gpu` measures: `python -m benchmarks.training_measures WHAT JSON`.

WHAT is `gemm`, `ours`, `transformers` or `trainer`; the last line printed is the answer as JSON. A process of its own
gives back all memory and all compiled code.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.training_data import drawn
from benchmarks.training_ours import StepClock, fit, training_run
from benchmarks.training_peers import gpt2_of_transformers
from training.config import (
    ObjectiveConfig,
    OptimizerConfig,
    ScheduleConfig,
    Shard,
    TrainingConfig,
    TrainingRun,
    from_dict,
)

WINDOWS = 3
"""Windows of steps that are timed."""


@dataclass(frozen=True)
class Work:
    """One measurement of a training speed, as JSON for the process that makes it."""

    model: dict[str, Any]
    vocabulary: int
    device_batch: int
    """Sequences in a forward pass."""
    accumulated: int = 1
    """Forward passes in a step."""
    device: str = "cuda"
    precision: str = "bf16"
    recompute: str = "none"
    document_mask: bool = False
    compiled: bool = True
    warmup: int = 8
    steps: int = 15
    """Steps in a window of time."""
    training: dict[str, Any] = field(default_factory=dict)
    """More fields of our TrainingConfig."""

    @property
    def all_steps(self) -> int:
        return self.warmup + WINDOWS * self.steps

    @property
    def tokens(self) -> int:
        """Of one step."""
        return self.device_batch * self.accumulated * int(self.model["context_length"])


def shard_tokens(work: Work) -> int:
    return min(10_000_000, work.tokens * work.all_steps + 2 * int(work.model["context_length"]))


def measure_gemm(request: dict[str, Any]) -> dict[str, Any]:
    """Best FLOP/s of square products of random bf16 matrices, by the median of windows of ten."""
    cuda, sizes = request["device"] == "cuda", (256,) if request["tiny"] else (4096, 8192, 16_384)
    dtype, best = torch.bfloat16 if cuda else torch.float32, 0.0
    for size in sizes:
        a, b = (torch.randn(size, size, device=request["device"]).to(dtype) for _ in range(2))
        seconds = []
        for _ in range(6):
            wait(request["device"])
            begin = time.perf_counter()
            for _ in range(10):
                a @ b
            wait(request["device"])
            seconds.append((time.perf_counter() - begin) / 10)
        best = max(best, 2 * size**3 / statistics.median(seconds[1:]))
    return {"flops": best}


def measure_ours(request: dict[str, Any]) -> dict[str, Any]:
    """Train with the real trainer and its usual metrics for some windows of steps."""
    work = Work(**request)
    with tempfile.TemporaryDirectory() as scratch:
        shards = drawn(Path(scratch), shard_tokens(work), work.vocabulary)
        run = run_of(work, shards, Path(scratch) / "run")
        clock = StepClock(work.warmup, work.steps)
        done = fit(run, [clock])
        seconds = statistics.median(clock.seconds)
        return {
            "work": request,
            "seconds_per_step": seconds,
            "tokens_per_second": work.tokens / seconds,
            "flops_per_token": done.flops_per_token,
            "peak_flops": done.compute.peak_flops,
            "loss": clock.loss,
            "memory": peak_memory(work.device),
            "planned": planned_memory(run),
        }


def run_of(work: Work, shards: list[Shard], folder: Path) -> TrainingRun:
    """The run that a measurement trains; the id 0 ends documents there."""
    settings = {
        "steps": work.all_steps,
        "batch_size": work.device_batch * work.accumulated,
        "device_batch_size": work.device_batch,
        "device": work.device,
        "precision": work.precision,
        "recompute": work.recompute,
        "compile": "on" if work.compiled else "off",
        "log_every": work.steps,
        **work.training,
    }
    return training_run(
        shards,
        work.vocabulary,
        folder,
        work.model,
        end_of_text=0,
        objective=ObjectiveConfig(document_mask=work.document_mask),
        optimizer=OptimizerConfig("adamw", learning_rate=3e-4, weight_decay=0.1),
        schedule=ScheduleConfig("constant", warmup_steps=work.warmup),
        training=from_dict(TrainingConfig, settings),
    )


def planned_memory(run: TrainingRun) -> int | None:
    """Bytes that the plan foresees on this GPU, or None on a CPU and where the plan fails, which stderr then says."""
    if run.training.device != "cuda":
        return None
    from training.planning import estimate_memory
    from training.planning.devices import this_device

    assert isinstance(run.training.device_batch_size, int)
    try:
        return estimate_memory(run, this_device("cuda"), 1, run.training.device_batch_size).total
    except Exception as error:  # what was measured stands without it
        print(f"no plan: {type(error).__name__}: {error}", file=sys.stderr)
        return None


def measure_transformers(request: dict[str, Any]) -> dict[str, Any]:
    """transformers' GPT-2 in a plain loop: autocast, torch.compile, fused AdamW, clipping."""
    work = Work(**request)
    cuda = work.device == "cuda"
    model = gpt2_of_transformers(work.vocabulary, **size_of(work)).to(work.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    compiled = torch.compile(model) if work.compiled else model
    data = windows_of(work)
    seconds, begin = [], 0.0
    for step in range(work.all_steps + 1):
        done = step - work.warmup
        if done >= 0 and done % work.steps == 0:
            wait(work.device)
            now = time.perf_counter()
            if done:
                seconds.append((now - begin) / work.steps)
            begin = now
        rows = torch.from_numpy(data[(step * work.device_batch + np.arange(work.device_batch)) % len(data)])
        ids = rows.pin_memory().to(work.device, non_blocking=True) if cuda else rows
        with torch.autocast(work.device, torch.bfloat16, enabled=work.precision == "bf16"):
            loss = compiled(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    tokens = work.device_batch * work.model["context_length"]
    return {"tokens_per_second": tokens / statistics.median(seconds), "memory": peak_memory(work.device)}


def measure_trainer(request: dict[str, Any]) -> dict[str, Any]:
    """transformers' Trainer on the same batch; its loss is read as seldom as ours."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    work = Work(**request)
    seconds: list[float] = []

    class Clock(TrainerCallback):
        begin = 0.0

        def on_step_end(self, args: Any, state: Any, control: Any, **facts: Any) -> None:
            done = state.global_step - work.warmup
            if done >= 0 and done % work.steps == 0:
                wait(work.device)
                now = time.perf_counter()
                if done:
                    seconds.append((now - self.begin) / work.steps)
                self.begin = now

    rows = [{"input_ids": row, "labels": row} for row in torch.from_numpy(windows_of(work))]
    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            output_dir=scratch,
            per_device_train_batch_size=work.device_batch,
            max_steps=work.all_steps,
            learning_rate=3e-4,
            weight_decay=0.1,
            optim="adamw_torch_fused",
            bf16=work.precision == "bf16",
            torch_compile=work.compiled,
            use_cpu=work.device == "cpu",
            logging_steps=work.steps,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        model = gpt2_of_transformers(work.vocabulary, **size_of(work))
        Trainer(model=model, args=arguments, train_dataset=rows, callbacks=[Clock()]).train()
    tokens = work.device_batch * work.model["context_length"]
    return {"tokens_per_second": tokens / statistics.median(seconds), "memory": peak_memory(work.device)}


def size_of(work: Work) -> dict[str, int]:
    return {key: int(work.model[key]) for key in ("layers", "heads", "width", "context_length")}


def windows_of(work: Work) -> np.ndarray:
    """Sequences (n, T) int64 of ids drawn as ours are."""
    with tempfile.TemporaryDirectory() as scratch:
        (shard,) = drawn(Path(scratch), shard_tokens(work), work.vocabulary)
        ids = np.fromfile(shard.path, "<u2").astype(np.int64)
    length = int(work.model["context_length"])
    return ids[: len(ids) // length * length].reshape(-1, length)


def wait(device: str) -> None:
    """Until the device has done what was asked of it."""
    if device == "cuda":
        torch.cuda.synchronize()


def peak_memory(device: str) -> int:
    """Most bytes that the allocator held; 0 on a CPU."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else 0


MEASURES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "gemm": measure_gemm,
    "ours": measure_ours,
    "trainer": measure_trainer,
    "transformers": measure_transformers,
}


def answer(measures: dict[str, Callable[[dict[str, Any]], dict[str, Any]]], arguments: list[str]) -> None:
    """Print what one of the measures, named with its request, answers; a lack of memory is an answer, too."""
    what, request = arguments
    try:
        found = measures[what](json.loads(request))
    except torch.OutOfMemoryError as error:
        found = {"failed": f"out of memory: {str(error).splitlines()[0][:200]}"}
    except Exception as error:
        if "out of memory" not in str(error).lower():
            raise
        found = {"failed": f"out of memory: {str(error).splitlines()[0][:200]}"}
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    answer(MEASURES, sys.argv[1:])
