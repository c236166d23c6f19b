"""The steps of a fine-tuning: forward, backward, update; evaluation, early stopping, the best weights, resume."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.adapters import Adaptation
from training.callbacks.journal import FILE_NAME, StepLines
from training.config import ScheduleConfig
from training.devices import peak_memory_bytes
from training.events import plain
from training.finetuning.config import FinetuningConfig
from training.finetuning.groups import build_optimizer
from training.finetuning.judging import LoadedTask, judge, mean_score
from training.finetuning.kinds import Item
from training.finetuning.network import Network
from training.finetuning.order import Order, TaskItems
from training.finetuning.state import State, States
from training.schedules import factor

Report = Callable[[dict[str, Any]], None]
SKIPPED_STEPS = 20
"""Steps in a row whose gradient is no number before training gives up."""
_HEADS, _MODEL = "heads/", "model/"


class Loop:
    """A fine-tuning under way. After `run` the network holds the weights that are kept.

    Attributes: history (of evaluations: step, epoch, score, metrics by task), best (its entry, or None), step, steps,
    tokens, seconds (of training alone).
    """

    def __init__(
        self,
        config: FinetuningConfig,
        network: Network,
        adaptation: Adaptation,
        tasks: Sequence[LoadedTask],
        output: Path,
        identity: dict[str, Any],
        report: Report,
    ) -> None:
        self._config, self._network, self._adaptation, self._tasks = config, network, adaptation, tasks
        self._report = report
        sizes = [TaskItems([item.length for item in t.splits["train"].items], t.config.weight) for t in tasks]
        self.order = Order(
            sizes,
            config.batch_size,
            config.epochs,
            config.seed,
            config.sampling_temperature,
            config.group_by_length,
            config.max_steps,
        )
        self.steps = self.order.steps
        adaptation.config.check_steps(self.steps)
        self._schedule = ScheduleConfig(config.schedule, warmup_steps=round(config.warmup * self.steps))
        self._leave_out_unused()
        self.optimizer = build_optimizer(config, network)
        self._states = States(output / "state", identity)
        self._journal = StepLines(output / FILE_NAME)
        self.step, self.tokens, self.seconds = 0, 0, 0.0
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None
        self._best_tensors: dict[str, Tensor] = {}
        self._loss_sum, self._loss_steps, self._skipped = 0.0, 0, 0
        self._begun: tuple[float, int] = (0.0, 0)

    def run(self) -> None:
        """Train to the end, or to where patience ends; raises ValueError where the loss stays no number."""
        self._resume()
        self._journal.open(self.step)
        self._network.train()
        self._begun = (self.seconds, self.tokens)
        try:
            while self.step < self.steps and not self._out_of_patience():
                self._train_step()
                last = self.step == self.steps
                if self._due(self._config.evaluate_every or self.order.steps_per_epoch) or last:
                    self._evaluate()
                    self._save()
                elif self._config.checkpoint_every and self._due(self._config.checkpoint_every):
                    self._save()
        finally:
            self._journal.close()
        if self._best_tensors and self._config.keep == "best":
            self._put(self._best_tensors)

    def clear(self) -> None:
        """Remove the states, once the results are written."""
        self._states.clear()

    def trained(self) -> dict[str, Tensor]:
        """All that training changes, by name; not copies."""
        tensors = {f"{_MODEL}{name}": tensor for name, tensor in self._adaptation.state_tensors().items()}
        return tensors | {f"{_HEADS}{name}": tensor for name, tensor in self._network.heads.state_dict().items()}

    def _put(self, tensors: dict[str, Tensor]) -> None:
        self._adaptation.load_state_tensors(_part(tensors, _MODEL))
        self._network.heads.load_state_dict(_part(tensors, _HEADS))

    def _due(self, every: int) -> bool:
        return self.step % every == 0

    def _train_step(self) -> None:
        begin = time.perf_counter()
        config, network = self._config, self._network
        task, places = self.order.batch(self.step)
        chosen = self._tasks[task]
        items = [chosen.splits["train"].items[place] for place in places]
        # A seed for each step: what dropout draws does not depend on where a run was interrupted.
        torch.manual_seed(_seed(config.seed, self.step))
        total = torch.zeros((), device=network.compute.device)
        weight = chosen.kind.weight(items)
        for part in _parts(items, config.device_batch_size):
            loss = chosen.kind.loss(chosen.kind.scores(network, part), part) / weight
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        further = self._adaptation.loss()
        if further is not None:
            further.backward()  # type: ignore[no-untyped-call]
        norm = self.optimizer.clip(config.gradient_clip)
        finite = torch.isfinite(norm) & torch.isfinite(total)
        rate = factor(self._schedule, self.step, self.steps)
        self.optimizer.step(rate, ~finite)
        self.step += 1
        self._adaptation.after_step(self.step, self.steps)
        self.optimizer.zero_grad()
        self.tokens += sum(len(one.ids) for item in items for one in item.sequences)
        self._count(total, finite)
        self.seconds += time.perf_counter() - begin
        if self._due(config.log_every) or self.step == self.steps:
            self._log(rate, norm)

    def _count(self, loss: Tensor, finite: Tensor) -> None:
        """Add up the losses; a run whose gradients stay no number ends."""
        if not bool(finite):
            self._skipped += 1
            if self._skipped >= SKIPPED_STEPS:
                raise ValueError(
                    f"the loss or its gradient was no number in {self._skipped} steps in a row, up to step "
                    f"{self.step}: lower learning_rate, or train in precision fp32"
                )
            return
        self._skipped = 0
        self._loss_sum, self._loss_steps = self._loss_sum + float(loss), self._loss_steps + 1

    def _log(self, rate: float, norm: Tensor) -> None:
        seconds, tokens = self.seconds - self._begun[0], self.tokens - self._begun[1]
        speed = tokens / max(seconds, 1e-9)
        row = {
            "train/loss": self._loss_sum / max(1, self._loss_steps),
            "train/learning_rate": self._config.learning_rate * rate,
            "train/gradient_norm": float(norm),
            "train/tokens_per_second": speed,
            "train/memory_bytes": float(peak_memory_bytes(self._network.compute.device)),
        }
        if not self._loss_steps:
            del row["train/loss"]
        self._loss_sum, self._loss_steps = 0.0, 0
        self._write(row)
        facts = {name.removeprefix("train/"): value for name, value in row.items()}
        left = self.seconds / self.step * (self.steps - self.step)
        counted = {"step": self.step, "steps": self.steps, "tokens": self.tokens, "remaining_seconds": left}
        self._report({"event": "progress", **counted, **facts})

    def _write(self, row: dict[str, float]) -> None:
        error = self._journal.append(
            {"step": self.step, "tokens": self.tokens, "time": round(self.seconds, 3), "metrics": plain(row)}
        )
        if error is not None:
            self._report({"event": "warning", "message": f"{FILE_NAME} cannot be written ({error}); its lines wait"})

    def _evaluate(self) -> None:
        """Judge the dev examples; the best weights so far are kept aside."""
        judged = {
            t.name: judge(self._network, t.kind, t.splits["dev"]).metrics for t in self._tasks if "dev" in t.splits
        }
        if not judged:
            return
        score = mean_score(self._tasks, judged)
        if not math.isfinite(score):
            raise ValueError(f"the dev score is no number at step {self.step}: lower learning_rate")
        epoch = round(self.step / self.order.steps_per_epoch, 4)
        entry = {"step": self.step, "epoch": epoch, "score": score, "metrics": judged}
        self.history.append(entry)
        if self.best is None or score > self.best["score"]:
            self.best = entry
            self._best_tensors = {name: tensor.detach().cpu().clone() for name, tensor in self.trained().items()}
        row = {f"{task}/dev/{name}": value for task, metrics in judged.items() for name, value in metrics.items()}
        self._write({**row, "dev/score": score})
        self._report({"event": "evaluation", "step": self.step, "metrics": {**row, "dev/score": score}})

    def _out_of_patience(self) -> bool:
        if not self._config.patience or self.best is None:
            return False
        since = sum(entry["step"] > self.best["step"] for entry in self.history)
        return since >= self._config.patience

    def _save(self) -> None:
        """Write a state to resume from, unless all is done."""
        if self.step == self.steps or self._out_of_patience():
            return
        tensors = {"trained": self.trained(), "optimizer": self.optimizer.state_tensors()}
        if self._best_tensors:
            tensors["best"] = self._best_tensors
        facts = {
            "tokens": self.tokens,
            "seconds": self.seconds,
            "history": self.history,
            "losses": [self._loss_sum, self._loss_steps, self._skipped],
        }
        self._states.save(State(self.step, tensors, facts))

    def _resume(self) -> None:
        """Take up the newest state, if there is one."""
        state = self._states.load()
        if state is None:
            return
        self._put(state.tensors["trained"])
        self.optimizer.load_state_tensors(state.tensors["optimizer"])
        self._best_tensors = state.tensors.get("best", {})
        self.step, self.history = state.step, state.facts["history"]
        self.tokens, self.seconds = state.facts["tokens"], state.facts["seconds"]
        self._loss_sum, self._loss_steps, self._skipped = state.facts["losses"]
        if self.history:
            self.best = max(self.history, key=lambda entry: (entry["score"], -entry["step"]))
        self._report({"event": "resumed", "step": self.step, "path": "state"})

    def _leave_out_unused(self) -> None:
        """Freeze what no task reads (a vocabulary head, a decoder), found by its missing gradient: it then takes no
        memory of the optimiser."""
        self._network.eval()
        for task in self._tasks:
            item = min(task.splits["train"].items, key=lambda item: item.length)
            loss = task.kind.loss(task.kind.scores(self._network, [item]), [item])
            if not loss.requires_grad:
                raise ValueError(
                    f"adapter.method {self._config.adapter.method} trains nothing of this model that the task "
                    f"{task.name} reads"
                )
            loss.backward()  # type: ignore[no-untyped-call]
        for parameter in self._network.parameters():
            parameter.requires_grad_(parameter.grad is not None)
            parameter.grad = None


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _parts(items: Sequence[Item], most: int) -> list[list[Item]]:
    """Items whose sequences number `most` at most together, but for one that has more; 0: all at once."""
    if not most:
        return [list(items)]
    parts: list[list[Item]] = [[]]
    room = most
    for item in items:
        if parts[-1] and len(item.sequences) > room:
            parts.append([])
            room = most
        parts[-1].append(item)
        room -= len(item.sequences)
    return parts


def _seed(seed: int, step: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}:{step}".encode(), digest_size=7).digest(), "little")
