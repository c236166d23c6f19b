"""The training loop: batches in, updates out. The objective knows what is learned, the callbacks what is watched."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training import checkpoints, objectives, optimizers, schedules
from training.averaging import WeightAverage
from training.callbacks import Callback, Rollback, Row
from training.checkpoints import CheckpointError, TrainerState
from training.config import TrainingRun, to_dict
from training.devices import Compute, logits_in_chunks
from training.distributed import World
from training.events import Reporter
from training.files import write_file
from training.loader import BatchReader, TrainLoader
from training.models import build as build_model
from training.models.float8 import use_float8
from training.optimizers.shards import like, local
from training.parallel import gradients_summed, parallelise, whole
from training.watchdog import Watchdog

ROLLBACKS = "rollbacks.json"
_AVERAGED = "average/updates"
_OBJECTIVE = "objective/"


class Stopped(Exception):
    """The run was told to stop; it goes on from the checkpoint that it has just written."""


class Trainer:
    """One run on one process of `world`.

    Attributes that callbacks use: run, world, compute, report, model, ema (the average of its weights, or None),
    objective, loader, device_batch_size, step (updates done), tokens_per_step, flops_per_token, batch (this process's
    part of the last one), gradient_norm (of the last step, before clipping), data_seconds (waited for batches so far),
    skipped_steps (whose gradient was no number), rollbacks (made so far). Raises ValueError for a batch that does not
    divide and for data that do not fill one window.
    """

    def __init__(
        self,
        run: TrainingRun,
        world: World,
        compute: Compute,
        report: Reporter,
        callbacks: Sequence[Callback],
        watchdog: Watchdog | None = None,
    ) -> None:
        self._started = time.perf_counter()
        self._seconds_before = 0.0
        self.run, self.world, self.compute, self.report = run, world, compute, report
        config = run.training
        self.device_batch_size = _device_batch_size(run, world, compute)
        if config.batch_size > self.device_batch_size * world.size and compute.replays_graphs(config.compile_mode):
            raise ValueError(
                f"training.compile_mode {config.compile_mode} replays CUDA graphs, whose gradients the next "
                "micro-batch overwrites: use default or max-autotune-no-cudagraphs, or a device_batch_size that takes "
                "the whole share"
            )
        positions = round(self.device_batch_size * run.sequence_length * run.objective.predicted)
        in_chunks = logits_in_chunks(config.logits, positions, run.vocabulary_size, compute.device)
        self.objective = objectives.build(run.objective, setting_of(run, in_chunks))
        form = self.objective.form(run.sequence_length)
        self.loader = TrainLoader(run.shards("train"), form, config.batch_size, config.seed)
        self._reader = BatchReader(self.loader, world.rank, world.size, compute.device)
        # Drawn on the CPU, so that every device starts from the same weights.
        torch.manual_seed(config.seed)
        self.model = build_model(run.model, run.model_vocabulary)
        self.model.set_recompute(config.recompute, config.recompute_every)
        self.model.to(compute.device)
        if compute.precision == "fp8":
            use_float8(self.model)
        if self.model.bigrams is not None:
            # A step touches few rows; on one CPU process only these are computed, elsewhere dense gradients are faster.
            self.model.bigrams.sparse = compute.device.type == "cpu" and world.size == 1
        loss = objectives.LossModule(self.model, self.objective)
        # The vocabulary head has no part in learning embeddings.
        idle = any(one.name == "contrastive" for one in run.objective.all)
        self._loss = parallelise(loss, self.model, config, world, compute, idle)
        self.optimizer = optimizers.build(run.optimizer, self.model, compute.dtype, compute.compiled)
        self.ema = None if config.ema_decay is None else WeightAverage(self.model, config.ema_decay)
        self._compiled = compute.compile(self._loss, config.compile_mode)
        self.step = 0
        self.tokens_per_step = config.batch_size * run.sequence_length
        self.flops_per_token = self.objective.flops_per_token(self.model, run.sequence_length)
        self.batch: objectives.Batch = {}
        self.gradient_norm = torch.zeros(())
        self.data_seconds = 0.0
        self.skipped_steps: list[int] = []
        self.rollbacks: list[dict[str, Any]] = []
        self._losses: list[Tensor] = []
        self._stop = threading.Event()
        self._callbacks = callbacks
        self._watchdog = watchdog or Watchdog(0, Path(run.output_dir), False, report)
        self._folder = Path(run.output_dir)
        self._checkpoints = self._folder / "checkpoints"

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

    def beat(self) -> None:
        """Say that the run goes on: for what takes long within a step."""
        self._watchdog.beat(self.step)

    def waiting(self) -> contextlib.AbstractContextManager[None]:
        """Around what may take long and cannot beat: the disk, other processes."""
        return self._watchdog.paused()

    def stop(self) -> None:
        """Let the run write a checkpoint after the step it is in and raise Stopped; may be called in a signal handler.

        One process of several is enough.
        """
        self._stop.set()

    def resume(self) -> None:
        """Take up the newest checkpoint that is whole, if there is one; set damaged ones aside.

        Raises ValueError when it belongs to another run, CheckpointError when there are checkpoints but none is whole.
        """
        if self.world.is_main:
            checkpoints.clean(self._checkpoints)
        self.world.wait()
        self.rollbacks = _read_json(self._folder / ROLLBACKS)
        found = checkpoints.latest_whole(self._checkpoints, self.model, self.world)
        for _, reason in found.damaged:
            self.report("warning", message=f"{reason}; going back to the checkpoint before it")
        if found.damaged and found.path is None:
            raise CheckpointError(f"no checkpoint in {self._checkpoints} is whole; remove them to start anew")
        if found.path is None and self.run.initial_checkpoint:
            origin, digest = self.run.initial_checkpoint, self.run.initial_sha256
            self.report("initialized", path=origin, **checkpoints.load_initial(self.model, origin, digest, self.world))
        if found.path is not None and found.state is not None:
            self._refuse_another_run(found.path, found.state)
            self._take_up(found.path, found.state)
            self.report("resumed", step=self.step, path=str(found.path))
        self.world.wait()
        if self.world.is_main:
            checkpoints.set_aside(path for path, _ in found.damaged)

    def fit(self) -> None:
        """Train to the last step.

        Raises CheckpointError when the last checkpoint cannot be written, FloatingPointError when the run gives up on a
        loss that is no number, Stopped after `stop`.
        """
        try:
            self._fit()
        finally:
            for callback in self._callbacks:
                callback.close()

    def _fit(self) -> None:
        for callback in self._callbacks:
            callback.on_start(self)
        self.model.train()
        while self.step < self.run.training.steps:
            self._one_step()
            if self.world.agree(self._stop.is_set()) and self.step < self.run.training.steps:
                for callback in self._callbacks:
                    callback.on_stop(self)
                raise Stopped(f"stopped at step {self.step} of {self.run.training.steps}")
        for callback in self._callbacks:
            callback.on_end(self)

    def fit_device_batch(self) -> None:
        """Try a pass over a micro-batch, and halve it where the device's memory does not hold it.

        For one process and `device_batch_size: auto`, whose estimate this puts to the test. Raises ValueError where not
        even one sequence fits.
        """
        share = self.run.training.batch_size
        rows = self._reader.take(self._batch_index(self.step))
        while True:
            try:
                few = {name: tensor[: self.device_batch_size] for name, tensor in rows.items()}
                self._backward(self.objective.prepare(few), self.device_batch_size)
                break
            except torch.OutOfMemoryError as error:
                smaller = [size for size in range(1, self.device_batch_size) if share % size == 0]
                if not smaller:
                    raise ValueError(
                        f"one sequence of {self.run.sequence_length} tokens does not fit into the device's memory: "
                        f"lower training.sequence_length, or set training.recompute: blocks ({error})"
                    ) from None
                self.device_batch_size = smaller[-1]
                self.report("warning", message=f"out of memory; device_batch_size is now {self.device_batch_size}")
            finally:
                self.optimizer.zero_grad()

    def take_losses(self) -> list[float]:
        """Losses of the steps since the last call, each the mean over all processes; NaN for a step that was skipped.

        Waits for the device.
        """
        if not self._losses:
            return []
        losses = self.world.sum(torch.stack(self._losses)) / self.world.size
        self._losses.clear()
        values: list[float] = losses.tolist()
        first = self.step - len(values) + 1
        self.skipped_steps += [first + index for index, value in enumerate(values) if value != value]
        return values

    def state(self) -> TrainerState:
        """All that a resume needs beside the weights. There is no random state in it: see `_update`."""
        extra = {
            "seconds": self.seconds,
            "precision": self.compute.precision,
            "threads": self.compute.threads,
            "skipped_steps": self.skipped_steps,
            "rollbacks": self.rollbacks,
            "callbacks": {callback.name: callback.state() for callback in self._callbacks},
        }
        tensors = self.optimizer.state_tensors()
        tensors |= {f"{_OBJECTIVE}{name}": tensor for name, tensor in self.objective.state_tensors().items()}
        if self.ema is not None:
            tensors[_AVERAGED] = self.ema.state_tensors()["updates"]
        return TrainerState(self.step, tensors, self.run.identity(), extra)

    @contextlib.contextmanager
    def inference(self, averaged: bool = True) -> Iterator[None]:
        """Have the model as it will be used: in evaluation mode, its weights averaged where the run does, no gradients.

        All processes enter it together and run the same forward passes.
        """
        with torch.no_grad(), contextlib.ExitStack() as stack:
            if self.ema is not None and averaged:
                stack.enter_context(self.ema.applied())
            stack.enter_context(whole(self._loss))
            self.model.eval()
            try:
                yield
            finally:
                self.model.train()

    def description(self, metrics: Row) -> dict[str, Any]:
        """Facts for the config.json of a checkpoint."""
        return {
            "objective": to_dict(self.run.objective),
            "document_mask": self.run.objective.document_mask,
            "end_of_text": self.run.end_of_text,
            "special_tokens": to_dict(self.run.special_tokens),
            "tokenizer_vocabulary_size": self.run.vocabulary_size,
            "sequence_length": self.run.sequence_length,
            "dataset_fingerprint": self.run.dataset_fingerprint,
            "tokens": self.tokens,
            "metrics": metrics,
        }

    def _factor(self, step: int) -> float:
        return schedules.factor(self.run.schedule, step, self.run.training.steps)

    def _one_step(self) -> None:
        for callback in self._callbacks:
            callback.on_step_start(self)
        self._update()
        row: Row = {}
        for callback in self._callbacks:
            try:
                callback.on_step_end(self, row)
            except Rollback as wish:
                if self._go_back(wish):
                    return
            self.beat()

    def _update(self) -> None:
        """Forward and backward over the micro-batches, clip, update; the CPU runs ahead of the device."""
        config, world = self.run.training, self.world
        # Dropout is a function of (seed, step, rank) like the batches, so that no random state has to be kept.
        torch.manual_seed(_word(config.seed, self.step, world.rank))
        begin = time.perf_counter()
        rows = self._reader.take(self._batch_index(self.step))
        self.data_seconds += time.perf_counter() - begin
        self.batch = self.objective.prepare(rows)
        total = self._backward(self.batch, config.batch_size // world.size)
        for callback in self._callbacks:
            callback.on_gradients(self)
        self.gradient_norm = self.optimizer.clip(config.gradient_clip)
        # A step whose gradient is no number changes nothing; the device decides, so that nobody waits for it.
        skip = ~torch.isfinite(self.gradient_norm)
        self.optimizer.step(self._factor(self.step), skip)
        if self.ema is not None:
            self.ema.update(skip)
        with self.compute.autocast():
            self.objective.after_step(self.model)
        self.optimizer.zero_grad()
        self._losses.append(torch.where(skip, torch.nan, total))
        self.step += 1

    def _backward(self, batch: objectives.Batch, sequences: int) -> Tensor:
        """Add up the gradients of the micro-batches and return their mean loss."""
        parts = sequences // self.device_batch_size
        total = torch.zeros((), device=self.compute.device)
        for index in range(parts):
            rows = slice(index * self.device_batch_size, (index + 1) * self.device_batch_size)
            with gradients_summed(self._loss, last=index == parts - 1):
                with self.compute.autocast():
                    loss = self._compiled({name: tensor[rows] for name, tensor in batch.items()})
                (loss / parts).backward()
            total += loss.detach() / parts
        return total

    def _batch_index(self, step: int) -> int:
        """The batch that a step trains on: its own number and those that rollbacks have left out before it."""
        return step + sum(entry["batches"] for entry in self.rollbacks if entry["counts"] and entry["to"] <= step)

    def _go_back(self, wish: Rollback) -> bool:
        """Return to a checkpoint, as if the batches since had never been in the data; the budget is the callback's.

        False where there is no checkpoint to return to, and the step stands.
        """
        for callback in self._callbacks:
            callback.on_rollback(self)
        found = checkpoints.newest_before(self._checkpoints, wish.before_step, self.model, self.world)
        if found.path is None or found.state is None:
            self.rollbacks.append({"step": self.step, "to": None, "counts": False, "batches": 0, "reason": wish.reason})
            self.report("warning", message=f"{wish.reason}, but there is no checkpoint before it; training goes on")
            return False
        before, now, seconds = self.step, self._batch_index(self.step), self.seconds
        rollbacks = self.rollbacks
        self._take_up(found.path, found.state)
        self._seconds_before = seconds
        to = self.step
        for entry in rollbacks:
            entry["counts"] = entry["counts"] and entry["to"] <= to
        self.rollbacks = rollbacks
        left_out = now - self._batch_index(to)
        entry = {"step": before, "to": to, "counts": True, "batches": left_out, "reason": wish.reason}
        self.rollbacks.append(entry)
        self._losses.clear()
        if self.world.is_main:
            # Checkpoints first: a crash in between meets the same spike again. And the file beside them: a crash before
            # the next checkpoint must not bring the bad batches back.
            checkpoints.remove_after(self._checkpoints, to)
            write_file(self._folder / ROLLBACKS, json.dumps(self.rollbacks, indent=1) + "\n")
        self.world.wait()
        self.report("rollback", step=before, to=to, batches=left_out, message=wish.reason)
        for callback in self._callbacks:
            callback.on_start(self)
        return True

    def _refuse_another_run(self, path: Path, state: TrainerState) -> None:
        changed = checkpoints.differences(self.run.identity(), state.identity)
        if changed:
            raise ValueError(
                f"{path} belongs to another run: {'; '.join(changed)}. "
                "Choose another output_dir, or remove its checkpoints to start anew"
            )

    def _take_up(self, path: Path, state: TrainerState) -> None:
        checkpoints.load_weights(self.model, path, self.world)
        tensors = dict(state.tensors)
        if self.ema is not None:
            averages = dict(self.model.named_parameters())
            self.ema.load_state_tensors({**averages, "updates": tensors.pop(_AVERAGED)})
            with torch.no_grad():
                for name, parameter in self.model.named_parameters():
                    local(parameter).copy_(local(like(state.weights[name], parameter)))
        own = {name: tensors.pop(name) for name in list(tensors) if name.startswith(_OBJECTIVE)}
        self.objective.load_state_tensors({name.removeprefix(_OBJECTIVE): tensor for name, tensor in own.items()})
        self.optimizer.load_state_tensors(tensors)
        self.step = state.step
        self._seconds_before = state.extra["seconds"]
        self._started = time.perf_counter()
        self.skipped_steps = list(state.extra["skipped_steps"])
        self.rollbacks = max(state.extra["rollbacks"], self.rollbacks, key=len)
        for callback in self._callbacks:
            callback.load_state(state.extra["callbacks"].get(callback.name, {}))
        for name, ours in (("precision", self.compute.precision), ("threads", self.compute.threads)):
            if state.extra[name] != ours:
                self.report(
                    "warning",
                    message=f"{path} was trained with {name} {state.extra[name]}, this process has {ours}: "
                    "the result will differ from that of an undisturbed run",
                )


def setting_of(run: TrainingRun, in_chunks: bool = True) -> objectives.Setting:
    """What the objective knows of a run."""
    return objectives.Setting(
        run.vocabulary_size,
        run.end_of_text,
        run.special_tokens,
        run.training.seed,
        in_chunks,
        run.tokenizer_path,
    )


def _device_batch_size(run: TrainingRun, world: World, compute: Compute) -> int:
    batch_size, wanted = run.training.batch_size, run.training.device_batch_size
    share, rest = divmod(batch_size, world.size)
    if rest:
        raise ValueError(f"training.batch_size {batch_size} does not divide among {world.size} processes")
    if wanted == "auto":
        from training.planning.microbatch import find_device_batch_size

        wanted = find_device_batch_size(run, world, compute.device)
    micro = wanted or share
    if share % micro:
        raise ValueError(
            f"training.device_batch_size {micro} does not divide the {share} sequences that one of {world.size} "
            f"processes has of training.batch_size {batch_size}"
        )
    return micro


def _word(*numbers: int) -> int:
    """63 bits that depend on all of the numbers."""
    digest = hashlib.blake2b(" ".join(map(str, numbers)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def _read_json(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
