"""Carrying out what a sender has been asked, and sending the journal: where the state and the tracker meet."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from training.tracking.journal import Point, Position, is_number, points, read_lines
from training.tracking.packaging import size_bytes
from training.tracking.state import State
from training.tracking.tracker import BATCH_METRICS, Tracker, is_final

COPY_LIMIT_BYTES = 1 << 30
"""Larger checkpoints are logged by reference: MLflow gets a note of where they lie, not a copy."""

log = logging.getLogger(__name__)


class Delivery:
    """One attempt to bring the tracker up to date."""

    def __init__(self, tracker: Tracker, state: State, save: Callable[[], None], journal: Path | None) -> None:
        self.tracker = tracker
        self.state = state
        self.save = save
        self.journal = journal

    def carry_out(self, request: dict[str, Any]) -> None:
        """Do what a request asks, unless it is done; a refusal for good is noted and passed over."""
        key, digest = request["key"], request["digest"]
        if self.state.done.get(key, {}).get("digest") == digest:
            return
        try:
            result = getattr(self, f"_{request['kind']}")(**request["arguments"])
        except Exception as error:
            if not is_final(error):
                raise
            self.state.failed[key] = first_line(error)
            log.error("tracking: %s was refused: %s", key, first_line(error))
        else:
            self.state.done[key] = {"digest": digest, "result": result}
            self.state.failed.pop(key, None)
        self.save()

    def send_journal(self) -> None:
        """Send what the journal holds beyond what was sent; what is written in the meantime waits for the next call."""
        if self.journal is None or not self.journal.exists():
            return
        size = self.journal.stat().st_size
        while True:
            before = Position(self.state.journal_offset, self.state.journal_tail)
            rows, after = read_lines(self.journal, before)
            if after == before:
                return
            # Several lines of one step may carry different metrics, so what was sent is known by metric.
            found = {
                (p.name, p.step): p for row in reversed(rows) for p in points(row, self.state.started_milliseconds)
            }
            fresh = [point for point in found.values() if point.step > self.state.sent.get(point.name, -1)]
            if self.state.in_flight:
                names = sorted({point.name for point in fresh})
                arrived = {(p.name, p.step) for name in names for p in self.tracker.points(self._run_id, name)}
                fresh = [point for point in fresh if (point.name, point.step) not in arrived]
            for start in range(0, len(fresh), BATCH_METRICS):
                self._send(fresh[start : start + BATCH_METRICS])
            self.state.journal_offset, self.state.journal_tail = after.offset, after.tail
            self.state.in_flight = False
            self.save()
            if after.offset >= size:
                return

    def _send(self, batch: list[Point]) -> None:
        if not self.state.in_flight:
            self.state.in_flight = True
            self.save()
        try:
            self.tracker.log_points(self._run_id, batch)
        except Exception as error:
            if not is_final(error):
                raise
            steps = f"{batch[0].step} to {batch[-1].step}"
            log.error("tracking: the metrics of steps %s were refused: %s", steps, first_line(error))
        for point in batch:
            self.state.sent[point.name] = max(point.step, self.state.sent.get(point.name, -1))
        self.state.in_flight = False
        self.save()

    @property
    def _run_id(self) -> str:
        if self.state.run_id is None:
            raise ValueError("there is no run yet; call start_run first")
        return self.state.run_id

    def _start_run(self, experiment: str, name: str, fingerprint: str, tags: dict[str, str], asked: int) -> str:
        run = self.tracker.open_run(experiment, name, fingerprint, tags)
        self.state.run_id, self.state.experiment_id = run.run_id, run.experiment_id
        self.state.started_milliseconds = run.start_time
        return str(run.run_id)

    def _log_recipe(self, recipe: dict[str, Any]) -> None:
        self.tracker.log_recipe(self._run_id, recipe)

    def _log_dataset(self, name: str, digest: str, source: str, facts: dict[str, Any], context: str) -> list[str]:
        self.state.dataset = list(self.tracker.log_dataset(self._run_id, name, digest, source, facts, context))
        return self.state.dataset

    def _log_checkpoint(
        self, folder: str, step: int, metrics: dict[str, float] | None, by_reference: bool | None
    ) -> str:
        path = Path(folder)
        size = size_bytes(path)
        description = json.loads((path / "config.json").read_text(encoding="utf-8"))
        model_id = self.tracker.log_checkpoint(
            self._run_id,
            str(self.state.experiment_id),
            path,
            step,
            f"{self.state.run_id}:{step}",
            {
                "model": description.get("model", {}),
                "vocabulary_size": description.get("vocabulary_size"),
                "step": step,
            },
            size > COPY_LIMIT_BYTES if by_reference is None else by_reference,
        )
        if metrics is None:
            given = description.get("metrics") or {}
            metrics = {name: given[name] for name in given if name.startswith("validation/") and is_number(given[name])}
        # The journal goes first: a metric that the run has already is linked as it is, with its time, and stays single.
        self.send_journal()
        written = round((path / "config.json").stat().st_mtime * 1000)
        self._link([self._known(Point(name, float(metrics[name]), step, written)) for name in metrics], model_id)
        return model_id

    def _known(self, point: Point) -> Point:
        same = (
            p for p in self.tracker.points(self._run_id, point.name) if (p.step, p.value) == (point.step, point.value)
        )
        return next(same, point)

    def _log_metrics(self, metrics: dict[str, float], step: int, checkpoint_step: int | None, time: int) -> None:
        model_id = None if checkpoint_step is None else self._model_id(checkpoint_step)
        self._link([Point(name, float(value), step, time) for name, value in metrics.items()], model_id)

    def _link(self, linked: Sequence[Point], model_id: str | None) -> None:
        for start in range(0, len(linked), BATCH_METRICS):
            batch = linked[start : start + BATCH_METRICS]
            self.tracker.log_points(self._run_id, batch, model_id, self.state.dataset)

    def _log_samples(self, samples: list[dict[str, Any]], step: int) -> None:
        name = f"samples/step-{step:08d}"
        blocks = [f"**{sample['prompt']}**{sample['continuation']}" for sample in samples]
        self.tracker.log_text(self._run_id, "\n\n---\n\n".join(blocks) + "\n", f"{name}.md")
        self.tracker.log_text(self._run_id, json.dumps(samples, ensure_ascii=False, indent=1) + "\n", f"{name}.json")

    def _log_artifact(self, path: str, folder: str) -> None:
        self.tracker.log_file(self._run_id, Path(path), folder)

    def _register(self, name: str, step: int, alias: str) -> str:
        return self.tracker.register(self._run_id, name, self._model_id(step), alias)

    def _finish(self, status: str, asked: int) -> None:
        self.tracker.finish(self._run_id, status)

    def _model_id(self, step: int) -> str:
        entry = self.state.done.get(f"checkpoint {step}")
        if entry is None:
            raise ValueError(f"the checkpoint of step {step} is not in the tracker; log_checkpoint comes first")
        return str(entry["result"])


def first_line(error: BaseException) -> str:
    """What an error says, cut to one line."""
    text = str(error).strip().splitlines()
    return text[0][:500] if text else type(error).__name__
