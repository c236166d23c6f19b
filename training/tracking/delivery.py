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
from training.tracking.tracker import BATCH_METRICS, FINGERPRINT, WEIGHTS, Tracker, is_final, versions_of
from training.tracking.trials import send_trial
from training.weights import weights_sha256

COPY_LIMIT_BYTES = 1 << 30
"""Larger checkpoints are logged by reference: MLflow gets a note of where they lie, not a copy."""

_NOTED = "weights:"
"""How the fingerprint of a LoggedModel begins that a run used and did not make."""

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
        self,
        folder: str,
        step: int,
        metrics: dict[str, float] | None,
        by_reference: bool | None,
        name: str | None = None,
        tags: dict[str, str] | None = None,
        parent: str | None = None,
    ) -> str:
        path = Path(folder)
        size = size_bytes(path)
        description = read_description(path)
        model_id = self.tracker.log_checkpoint(
            self._run_id,
            str(self.state.experiment_id),
            path,
            step,
            f"{self.state.run_id}:{step}",
            _parameters(description, step),
            size > COPY_LIMIT_BYTES if by_reference is None else by_reference,
            {WEIGHTS: weights_sha256(path), **(tags or {}), **(self._parent_tags(parent) if parent else {})},
            name,
        )
        if metrics is None:
            given = description.get("metrics") or {}
            metrics = {name: given[name] for name in given if name.startswith("validation/") and is_number(given[name])}
        # The journal goes first: a metric that the run has already is linked as it is, with its time, and stays single.
        self.send_journal()
        written = round((path / "config.json").stat().st_mtime * 1000)
        self._link([self._known(Point(name, float(metrics[name]), step, written)) for name in metrics], model_id)
        return model_id

    def _log_used_model(self, folder: str, name: str, step: int, sha256: str, model_id: str | None) -> dict[str, Any]:
        """The LoggedModel of a model from elsewhere; one that the tracker lacks is noted, with the place it lies in."""
        found = self.tracker.find_model(sha256, model_id)
        if found is None:
            path = Path(folder)
            made = self.tracker.log_checkpoint(
                self._run_id,
                str(self.state.experiment_id),
                path,
                step,
                f"{_NOTED}{sha256}",
                _parameters(read_description(path), step),
                by_reference=True,
                tags={WEIGHTS: sha256},
                name=name,
                output=False,
            )
            facts: dict[str, Any] = {"model_id": made, "run_id": None, "versions": []}
        else:
            facts = {
                "model_id": found.model_id,
                "run_id": None if found.tags.get(FINGERPRINT, "").startswith(_NOTED) else found.source_run_id,
                "versions": [f"{version['name']}/{version['version']}" for version in versions_of(found)],
            }
        self.tracker.log_input_model(self._run_id, facts["model_id"])
        return facts

    def _parent_tags(self, model: str) -> dict[str, str]:
        facts = self._used_model(model)
        found = {
            "headrace.parent.model_id": facts["model_id"],
            "headrace.parent.run": facts["run_id"],
            "headrace.parent.version": facts["versions"][-1] if facts["versions"] else None,
        }
        return {name: value for name, value in found.items() if value}

    def _used_model(self, model: str) -> dict[str, Any]:
        entry = self.state.done.get(f"model {model}")
        if entry is None:
            raise ValueError(f"the model {model!r} is not in the tracker; log_used_model comes first")
        facts: dict[str, Any] = entry["result"]
        return facts

    def _known(self, point: Point) -> Point:
        same = (
            p for p in self.tracker.points(self._run_id, point.name) if (p.step, p.value) == (point.step, point.value)
        )
        return next(same, point)

    def _log_metrics(
        self,
        metrics: dict[str, float],
        step: int,
        checkpoint_step: int | None,
        time: int,
        model: str | None = None,
    ) -> None:
        model_id = None if checkpoint_step is None else self._model_id(checkpoint_step)
        if model is not None:
            model_id = self._used_model(model)["model_id"]
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

    def _log_table(self, name: str, columns: list[str], rows: list[list[Any]]) -> None:
        self.tracker.log_table(self._run_id, name, columns, rows)

    def _log_trial(self, **trial: Any) -> str:
        return send_trial(self.tracker, self._run_id, str(self.state.experiment_id), **trial)

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


def read_description(checkpoint_dir: Path) -> dict[str, Any]:
    """A checkpoint's config.json."""
    description: dict[str, Any] = json.loads((checkpoint_dir / "config.json").read_text(encoding="utf-8"))
    return description


def _parameters(description: dict[str, Any], step: int) -> dict[str, Any]:
    """What a LoggedModel says of a checkpoint."""
    known = {name: description[name] for name in ("task", "adapter", "quantization") if description.get(name)}
    return {
        "model": description.get("model", {}),
        "vocabulary_size": description.get("vocabulary_size"),
        "step": step,
        **known,
    }


def first_line(error: BaseException) -> str:
    """What an error says, cut to one line."""
    text = str(error).strip().splitlines()
    return text[0][:500] if text else type(error).__name__
