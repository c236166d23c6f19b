"""The training loop: batches in, updates out. The objective knows what is learned, the callbacks what is watched."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from training import checkpoints, objectives, optimizers, schedules
from training.callbacks import Callback, Row
from training.checkpoints import CheckpointError, TrainerState
from training.config import TrainingRun
from training.devices import Compute
from training.distributed import World
from training.events import Reporter
from training.loader import TrainLoader
from training.models.gpt import GPT


class Trainer:
    """One run on one process of `world`.

    Attributes that callbacks use: run, world, compute, report, model, objective, loader, device_batch_size, step
    (updates done), tokens_per_step, flops_per_token, gradient_norm (of the last step, before clipping).
    Raises ValueError for a batch that does not divide and for data that do not fill one window.
    """

    def __init__(
        self, run: TrainingRun, world: World, compute: Compute, report: Reporter, callbacks: Sequence[Callback]
    ) -> None:
        self._started = time.perf_counter()
        self._seconds_before = 0.0
        self.run, self.world, self.compute, self.report = run, world, compute, report
        config = run.training
        self.device_batch_size = _device_batch_size(config.batch_size, config.device_batch_size, world.size)
        self.loader = TrainLoader(run.shards("train"), run.sequence_length, config.batch_size, config.seed)
        self.objective = objectives.build(run.objective, run.end_of_text)
        # Drawn on the CPU, so that every device starts from the same weights.
        torch.manual_seed(config.seed)
        self.model = GPT(run.model, run.vocabulary_size).to(compute.device)
        if self.model.bigrams is not None:
            # A step touches few rows; on one CPU process only these are computed, elsewhere dense gradients are faster.
            self.model.bigrams.sparse = compute.device.type == "cpu" and world.size == 1
        self.optimizer = optimizers.build(run.optimizer, self.model, compute.dtype)
        # Adagrad's steps do not depend on the scale of the gradient, so the bigram embedding has no need of clipping.
        self._clipped = [p for name, p in self.model.named_parameters() if name != "bigrams.weight"]
        self.step = 0
        self.tokens_per_step = config.batch_size * run.sequence_length
        self.flops_per_token = self.model.flops_per_token(run.sequence_length)
        self.gradient_norm = torch.zeros(())
        self._losses: list[Tensor] = []
        self._callbacks = callbacks
        self._checkpoints = Path(run.output_dir) / "checkpoints"
        loss: nn.Module = _Loss(self.model, self.objective)
        self._ddp = DistributedDataParallel(loss, gradient_as_bucket_view=True) if world.size > 1 else None
        loss = self._ddp or loss
        self._loss = torch.compile(loss, dynamic=False) if compute.compiled else loss

    @property
    def tokens(self) -> int:
        """Training tokens seen."""
        return self.step * self.tokens_per_step

    @property
    def seconds(self) -> float:
        """Time spent on the run so far; what was lost with a killed process does not count."""
        return self._seconds_before + time.perf_counter() - self._started

    @property
    def learning_rate(self) -> float:
        """AdamW's rate in the last step."""
        return self.run.optimizer.learning_rate * self._factor(max(0, self.step - 1))

    def due(self, every: int) -> bool:
        """Whether something done every so many steps is to be done now; always at the end."""
        return self.step % every == 0 or self.step == self.run.training.steps

    def resume(self) -> None:
        """Take up the newest checkpoint that is whole, if there is one; set damaged ones aside.

        Raises ValueError when it belongs to another run.
        """
        if self.world.is_main:
            checkpoints.clean(self._checkpoints)
        self.world.wait()
        damaged: list[Path] = []
        for path in reversed(checkpoints.list_checkpoints(self._checkpoints)):
            try:
                state = checkpoints.load_state(path)
            except CheckpointError as error:
                damaged.append(path)
                self.report("warning", message=f"{error}; going back to the checkpoint before it")
                continue
            self._refuse_another_run(path, state)
            self._take_up(path, state)
            break
        self.world.wait()
        if self.world.is_main:
            for path in damaged:
                path.rename(path.with_name(f"damaged-{path.name}-{time.time_ns()}"))

    def fit(self) -> None:
        """Train to the last step.

        Raises CheckpointError when a checkpoint cannot be written, FloatingPointError when the loss is not finite.
        """
        callbacks = self._callbacks
        for callback in callbacks:
            callback.on_start(self)
        self.model.train()
        while self.step < self.run.training.steps:
            for callback in callbacks:
                callback.on_step_start(self)
            self._update()
            row: Row = {}
            for callback in callbacks:
                callback.on_step_end(self, row)
        for callback in callbacks:
            callback.on_end(self)

    def take_losses(self) -> list[float]:
        """Losses of the steps since the last call, each the mean over all processes."""
        losses = self.world.sum(torch.stack(self._losses)) / self.world.size
        self._losses.clear()
        values: list[float] = losses.tolist()
        return values

    def state(self) -> TrainerState:
        """All that a resume needs beside the weights. There is no random state in it: see `_update`."""
        extra = {
            "seconds": self.seconds,
            "precision": self.compute.precision,
            "threads": self.compute.threads,
            "callbacks": {callback.name: callback.state() for callback in self._callbacks},
        }
        return TrainerState(self.step, self.optimizer.state_tensors(), self.run.identity(), extra)

    def description(self, metrics: Row) -> dict[str, Any]:
        """Facts for the config.json of a checkpoint."""
        return {
            "objective": self.run.objective.name,
            "end_of_text": self.run.end_of_text,
            "sequence_length": self.run.sequence_length,
            "dataset_fingerprint": self.run.dataset_fingerprint,
            "tokens": self.tokens,
            "metrics": metrics,
        }

    def _factor(self, step: int) -> float:
        return schedules.factor(self.run.schedule, step, self.run.training.steps)

    def _update(self) -> None:
        """One step: forward and backward over the micro-batches, clip, update."""
        config, world = self.run.training, self.world
        # Dropout is a function of (seed, step, rank) like the batches, so that no random state has to be kept.
        torch.manual_seed(_word(config.seed, self.step, world.rank))
        windows = torch.from_numpy(self.loader.batch(self.step, world.rank, world.size))
        if self.compute.device.type == "cuda":
            windows = windows.pin_memory().to(self.compute.device, non_blocking=True)
        batch = self.objective.prepare(windows)
        parts = len(windows) // self.device_batch_size
        total = torch.zeros((), device=self.compute.device)
        for index in range(parts):
            rows = slice(index * self.device_batch_size, (index + 1) * self.device_batch_size)
            with self._gradients_summed(last=index == parts - 1):
                with self.compute.autocast():
                    loss = self._loss({name: tensor[rows] for name, tensor in batch.items()})
                (loss / parts).backward()
            total += loss.detach() / parts
        clip = config.gradient_clip or float("inf")
        self.gradient_norm = nn.utils.clip_grad_norm_(self._clipped, clip)
        self.optimizer.step(self._factor(self.step))
        self.optimizer.zero_grad()
        self._losses.append(total)
        self.step += 1

    def _gradients_summed(self, last: bool) -> contextlib.AbstractContextManager[None]:
        """Let DDP add the gradients up once in a step, with its last micro-batch."""
        if self._ddp is not None and not last:
            return self._ddp.no_sync()
        return contextlib.nullcontext()

    def _refuse_another_run(self, path: Path, state: TrainerState) -> None:
        changed = checkpoints.differences(self.run.identity(), state.identity)
        if changed:
            raise ValueError(
                f"{path} belongs to another run: {'; '.join(changed)}. "
                "Choose another output_dir, or remove its checkpoints to start anew"
            )

    def _take_up(self, path: Path, state: TrainerState) -> None:
        checkpoints.load_weights(self.model, path)
        self.optimizer.load_state_tensors(state.tensors)
        self.step = state.step
        self._seconds_before = state.extra["seconds"]
        for callback in self._callbacks:
            callback.load_state(state.extra["callbacks"].get(callback.name, {}))
        for name, ours in (("precision", self.compute.precision), ("threads", self.compute.threads)):
            if state.extra[name] != ours:
                self.report(
                    "warning",
                    message=f"{path} was trained with {name} {state.extra[name]}, this process has {ours}: "
                    "the result will differ from an undisturbed run in its last bits",
                )
        self.report("resumed", step=self.step, path=str(path))


class _Loss(nn.Module):
    """Model and objective as one module, so that DDP and torch.compile see the whole step."""

    def __init__(self, model: GPT, objective: objectives.Objective) -> None:
        super().__init__()
        self.model = model
        self._objective = objective

    def forward(self, batch: objectives.Batch) -> Tensor:
        return self._objective.loss(self.model, batch)


def _device_batch_size(batch_size: int, device_batch_size: int | None, world_size: int) -> int:
    share, rest = divmod(batch_size, world_size)
    if rest:
        raise ValueError(f"training.batch_size {batch_size} does not divide among {world_size} processes")
    micro = device_batch_size or share
    if share % micro:
        raise ValueError(
            f"training.device_batch_size {micro} does not divide the {share} sequences that one of {world_size} "
            f"processes has of training.batch_size {batch_size}"
        )
    return micro


def _word(*numbers: int) -> int:
    """63 bits that depend on all of the numbers."""
    digest = hashlib.blake2b(" ".join(map(str, numbers)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
