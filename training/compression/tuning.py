"""Training within a step: a model goes on learning from the token shards while it is made smaller."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from training import checkpoints, optimizers, schedules
from training.callbacks.journal import StepLines
from training.checkpoints import TrainerState
from training.compression.config import TuningConfig
from training.devices import Compute
from training.loader import BatchReader, TrainLoader
from training.models import Model
from training.objectives import Batch, Objective

Report = Callable[[dict[str, Any]], None]
Loss = Callable[[Batch], dict[str, Tensor]]

_HELD = "held/"


class Held(Protocol):
    """What is done to the weights after each update: `pruning_masks.Masks`."""

    def after_step(self, step: int) -> None:
        """After update number `step`, from 1."""

    def state_tensors(self) -> dict[str, Tensor]:
        """What a stopped job goes on from."""

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take that up again."""


class Tuning:
    """One training: `run` leaves the model as the last update did, in evaluation mode.

    It goes on from the newest checkpoint in `folder` whose `identity` is the same, and writes one every so many
    updates. Batches and dropout are functions of the step, so that the result is the same.
    """

    def __init__(
        self,
        config: TuningConfig,
        model: Model,
        objective: Objective,
        loader: TrainLoader,
        compute: Compute,
        *,
        seed: int,
        identity: str,
        folder: Path,
        loss: Loss | None = None,
        held: Held | None = None,
    ) -> None:
        self._config, self._model, self._objective = config, model, objective
        self._loss = loss or (lambda batch: {"loss": objective.loss(model, batch)})
        self._held, self._seed, self._identity, self._folder = held, seed, identity, folder
        self._compute, self._loader = compute, loader
        self._reader = BatchReader(loader, 0, 1, compute.device)
        self._optimizer = optimizers.build(config.optimizer, model, compute.dtype, compute.compiled)

    def run(self, journal: StepLines, first: int, total: int, report: Report) -> None:
        """Train; steps are told and written with `first` added, of `total` in all.

        Raises ValueError where the loss or its gradient is no number.
        """
        config, begin = self._config, time.perf_counter()
        done = self._take_up(report)
        journal.open(first + done)
        self._model.train()
        sums: dict[str, Tensor] = {}
        logged, since = done, begin
        for step in range(done + 1, config.steps + 1):
            for name, value in self._update(step).items():
                sums[name] = sums[name] + value if name in sums else value
            if step % config.log_every and step != config.steps:
                if step % config.checkpoint_every == 0:
                    self._keep(step)
                continue
            now = time.perf_counter()
            row = {f"train/{name}": float(value) / (step - logged) for name, value in sums.items()}
            if not all(math.isfinite(value) for value in row.values()):
                raise ValueError(
                    f"the loss at step {step} is not finite; lower tuning.optimizer's learning rates, or begin with a "
                    "model whose training has not diverged"
                )
            row["train/learning_rate"] = config.optimizer.learning_rate * self._factor(step - 1)
            row["train/tokens_per_second"] = (step - logged) * self._tokens / max(now - since, 1e-9)
            self._write(journal, first + step, row, now - begin)
            remaining = (now - begin) / (step - done) * (config.steps - step)
            report(
                {
                    "event": "progress",
                    "step": first + step,
                    "steps": total,
                    "tokens": step * self._tokens,
                    "loss": row["train/loss"],
                    "tokens_per_second": row["train/tokens_per_second"],
                    "remaining_seconds": round(remaining, 1),
                }
            )
            if step % config.checkpoint_every == 0:
                self._keep(step)
            sums, logged, since = {}, step, now
        self._model.eval()

    @property
    def _tokens(self) -> int:
        return self._config.batch_size * self._loader.form.stride

    def _factor(self, step: int) -> float:
        return schedules.factor(self._config.schedule, step, self._config.steps)

    def _update(self, step: int) -> dict[str, Tensor]:
        torch.manual_seed(_word(self._seed, step))
        batch = self._objective.prepare(self._reader.take(step - 1))
        with self._compute.autocast():
            parts = self._loss(batch)
        parts["loss"].backward()  # type: ignore[no-untyped-call]
        norm = self._optimizer.clip(self._config.gradient_clip)
        self._optimizer.step(self._factor(step - 1), ~torch.isfinite(norm))
        self._optimizer.zero_grad()
        if self._held is not None:
            self._held.after_step(step)
        # A gradient that is no number changes no weight; it shows in the journal's mean.
        return {name: value.detach().double() for name, value in parts.items()} | {"gradient_norm": norm.double()}

    def _write(self, journal: StepLines, step: int, row: dict[str, float], seconds: float) -> None:
        line = {"step": step, "tokens": step * self._tokens, "time": round(seconds, 3), "metrics": row}
        error = journal.append(line)
        if error is not None:
            raise error

    def _keep(self, step: int) -> None:
        """Write a state to go on from, and drop the one before it."""
        if step == self._config.steps:
            return  # the step's result is written at once
        tensors = self._optimizer.state_tensors()
        if self._held is not None:
            tensors |= {f"{_HELD}{name}": tensor for name, tensor in self._held.state_tensors().items()}
        state = TrainerState(step, tensors, {"identity": self._identity}, {})
        written = checkpoints.save(self._folder, self._model, state, {})
        for path in checkpoints.list_checkpoints(self._folder):
            if path != written:
                checkpoints.remove(path)

    def _take_up(self, report: Report) -> int:
        """The step of the newest whole state of this very training, which is taken up; 0 where there is none."""
        checkpoints.clean(self._folder)
        found = checkpoints.latest_whole(self._folder)
        for _, reason in found.damaged:
            report({"event": "warning", "message": f"{reason}; going back to the state before it"})
        if found.path is None or found.state is None or found.state.identity != {"identity": self._identity}:
            shutil.rmtree(self._folder, ignore_errors=True)
            return 0
        checkpoints.load_weights(self._model, found.path)
        held = {name: tensor for name, tensor in found.state.tensors.items() if name.startswith(_HELD)}
        rest = {name: tensor for name, tensor in found.state.tensors.items() if name not in held}
        self._optimizer.load_state_tensors(rest)
        if self._held is not None:
            self._held.load_state_tensors({name.removeprefix(_HELD): tensor for name, tensor in held.items()})
        report({"event": "resumed", "step": found.state.step, "path": str(found.path)})
        return found.state.step


def identity_of(*facts: Any) -> str:
    """A digest of JSON facts."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _word(*numbers: int) -> int:
    """63 bits that depend on all of the numbers."""
    digest = hashlib.blake2b(" ".join(map(str, numbers)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
