"""One trial's training: the run's own `train` stage, carried out by a worker that is kept for the next one."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.plan import Plan
from flows.process import ProcessFailed
from flows.progress import Event, listening, publish
from flows.studies.outcomes import Clock, outcome_of, unfinished
from flows.studies.trial import Outcome, Point, State, Trial
from flows.studies.worker import Ending, Worker
from flows.training_stages import Train
from pipeline.execution import run_stage
from pipeline.stage import StageError
from pipeline.store import StoreError

STAGE = "trials"
"""The stage that the events of a study's trials name."""


class TrialEnded(StageError):
    """A trial's training ended before its end; the message says why."""

    def __init__(self, state: str, message: str) -> None:
        super().__init__(message)
        self.state = state


class TrialTrain(Train):
    """The stage `train` under the same fingerprint and to the same files, with a worker as its process."""

    def __init__(
        self, stage: Train, worker: Worker, on_event: Callable[[Event], bool], on_begin: Callable[[], None]
    ) -> None:
        """`on_event` hears of the trainer's events, and True stops the training; `on_begin` that it is to begin."""
        super().__init__(stage.config, stage.inputs)
        self._worker, self._on_event, self._on_begin = worker, on_event, on_begin
        self._pruned = False

    def train(self, config_path: Path) -> None:
        """Have the worker train, to the end. Raises TrialEnded before it."""

        def tell(event: Event) -> None:
            if self._on_event(event) and not self._pruned:
                self._pruned = True
                self._worker.stop(config_path)

        self._on_begin()
        ending = Ending("stopped")
        for _ in range(1 + self.config.restarts):
            # A worker that was told to stop, and not by the study, leaves a checkpoint for the next one.
            if ending.state == "stopped" and not self._pruned:
                ending = self._order(config_path, tell)
        if ending.state == "full":
            raise StoreError(
                f"{ending.message}; what is finished is kept: free some space and start the same command again"
            )
        if ending.state != "finished":
            state = "pruned" if ending.state == "stopped" and self._pruned else ending.state
            raise TrialEnded(state, ending.message)

    def _order(self, config_path: Path, tell: Callable[[Event], None]) -> Ending:
        try:
            return self._worker.train(config_path, tell, lambda line: None)
        except ProcessFailed as error:
            raise TrialEnded("closed", str(error)) from error


def train_trial(
    trial: Trial, plan: Plan, worker: Worker, clock: Clock, watch: Callable[[Trial, Point], bool] | None = None
) -> Outcome:
    """Train a trial to its commit in the store, and return what came of it.

    A training in several processes starts them by torchrun, as a run does. Raises StoreError where the disk is full,
    and ProcessFailed where no worker starts or the worker was told to end.
    """
    stage = plan.stages["train"]
    assert isinstance(stage, Train)
    follower = _Follower(trial, stage.config.training.steps, clock, watch)

    def on_wait(message: str) -> None:
        clock.wait()
        publish({"stage": STAGE, "line": f"{trial.name}: {message}"})

    try:
        if stage.config.processes > 1:
            with listening(lambda event: follower.hear_of(event, stage.name)):
                committed = run_stage(stage, plan.store, on_wait=on_wait)
        else:
            train = TrialTrain(stage, worker, follower, clock.go_on)
            committed = run_stage(train, plan.store, on_wait=on_wait)
    except StageError as error:
        ended = getattr(error, "state", "")
        if ended in ("stopped", "closed"):
            raise  # told to end, and so is the study
        state: State = "failed"
        if ended == "pruned":
            state = "pruned"
        elif ended == "diverged" or _DIVERGED.search(str(error)):
            state = "diverged"
        message = "stopped by the study" if state == "pruned" else str(error)
        outcome = unfinished(trial, plan, state, message, follower.started)
        if state != "failed":
            # Nobody goes on from here; the journal stays.
            shutil.rmtree(Path(plan.refs["train"].path, "work", "checkpoints"), ignore_errors=True)
        return outcome
    finally:
        clock.go_on()  # where the other process finished the training, or it could not begin
    return outcome_of(trial, committed)


_DIVERGED = re.compile(r"the [\w ]*loss became \S+ by step \d+|training\.guard\.rollbacks allows \d+")
"""What the trainer says of a training that diverged, in the output of one in several processes."""


class _Follower:
    """Hears the events of a training: its clock, its held-out evaluations, and what a person wants to see."""

    def __init__(self, trial: Trial, steps: int, clock: Clock, watch: Callable[[Trial, Point], bool] | None) -> None:
        self._trial, self._steps, self._clock, self._watch = trial, steps, clock, watch
        self.started: Event | None = None

    def __call__(self, event: Event) -> bool:
        """Take an event in; True where the training is to stop."""
        match event.get("event"):
            case "start":
                self._clock.start()
                self.started = event
            case "finished" | "stopped":
                self._clock.stop()
            case "progress":
                shown: dict[str, Any] = {name: event[name] for name in ("loss", "tokens_per_second") if name in event}
                publish({"stage": STAGE, "trial": self._trial.name, **shown})
            case "evaluation":
                loss = event["metrics"].get("validation/loss")
                if self._watch is not None and loss is not None:
                    return self._watch(self._trial, self._point(int(event["step"]), float(loss)))
            case "warning" | "rollback" | "stalled":
                line = f"{self._trial.name}: {event['event']}: {event.get('message')}"
                publish({"stage": STAGE, "line": line})
        return False

    def hear_of(self, event: Event, stage: str) -> None:
        """Take in an event that a stage published. Trainings of several processes cannot be stopped in between."""
        if event.get("stage") == stage and "event" in event:
            self(event)

    def _point(self, step: int, loss: float) -> Point:
        assert self.started is not None
        tokens = round(self.started["run_tokens"] * step / self._steps)
        return Point(step, tokens, float(self.started["flops_per_token"]) * tokens, loss)
