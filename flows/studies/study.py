"""A study: trials of one base recipe, trained one after another or several at a time, and told to everyone at the end.

    study = Study("scaling", recipe, workspace)
    study.prepare()                      # the corpus stages that are missing
    outcomes = study.run(trials)         # what is committed in the store is not trained again
    study.finish(results, page)

All of it runs inside a Prefect flow. A study that is killed at any moment goes on where it was: a trial's training lies
in the store, committed or absent, and what did not come to its end (diverged, pruned) in a record of the trial.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from contextvars import copy_context
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.states import Completed, Failed, State

from flows.costs.training import training_cost
from flows.engines import without_heartbeat
from flows.plan import Plan, make_plan
from flows.progress import publish
from flows.sending import TrackingPending
from flows.studies.artifacts import Progress, publish_results
from flows.studies.limits import occupied
from flows.studies.outcomes import Clock, outcome_of, spares_training
from flows.studies.recipe import TRIAL_OVERRIDES, StudyRecipe
from flows.studies.records import StudyFiles, write_catalog
from flows.studies.tracking import StudyTracking
from flows.studies.training import train_trial
from flows.studies.trial import Outcome, Point, Trial
from flows.studies.worker import Worker, Workers
from pipeline.execution import available_cores
from pipeline.report.study import Page
from pipeline.stage import CORPUS_STAGES
from pipeline.store import StoreError, fingerprint, is_local

Watch = Callable[[Trial, Point], bool]
_VERSION = 1


class Study:
    """Trials of a recipe in a workspace. Inside a Prefect flow only; close it, or use it as a context manager."""

    def __init__(self, kind: str, recipe: StudyRecipe, workspace: str) -> None:
        """Read the base recipe and open the study's record.

        Raises RecipeError for a base recipe or overrides that are wrong, ValueError for a workspace on another machine,
        StoreError where it cannot be written.
        """
        if not is_local(workspace):
            raise ValueError(
                f"{workspace}: the trials of a study train on a local disk; use a local --workspace for it"
            )
        self.kind, self.recipe = kind, recipe
        self.workspace = str(Path(workspace).resolve())
        self.base = self.plan()
        """The run that is varied: the base recipe with the study's overrides."""
        self.fingerprint = fingerprint(
            f"study {kind}", _VERSION, recipe.identity(), {"train": self.base.refs["train"].fingerprint}
        )
        self.files = StudyFiles(self.workspace, kind, recipe, self.fingerprint)
        self._tracking = StudyTracking(self.files, recipe)
        self._workers = Workers(recipe.concurrency)
        self._outcomes: dict[str, Outcome] = {}
        self._lock = threading.RLock()

    @property
    def folder(self) -> Path:
        """workspace/studies/<name>-<fingerprint>."""
        return self.files.folder

    @property
    def outcomes(self) -> list[Outcome]:
        """What all trials of this process came to so far, in the order of their end."""
        with self._lock:
            return list(self._outcomes.values())

    def plan(self, overrides: Sequence[str] = ()) -> Plan:
        """The run recipe of a trial with these overrides, wired up. Raises RecipeError and ValueError naming a field.

        Its `refs["train"]` is the place of the trial's training in the store.
        """
        return make_plan(self.recipe.base, self.workspace, [*TRIAL_OVERRIDES, *self.recipe.overrides, *overrides])

    def prepare(self, variants: Sequence[Sequence[str]] = ((),)) -> None:
        """Run the corpus stages that are missing for the base recipe under each of these overrides."""
        from flows.pretrain import STAGE_FLOWS

        done = set()
        for overrides in variants:
            plan = self.plan(overrides)
            corpus = tuple(plan.refs[name].fingerprint for name in CORPUS_STAGES if name in plan.refs)
            if corpus in done or all(plan.refs[name].is_committed for name in CORPUS_STAGES if name in plan.refs):
                continue
            done.add(corpus)
            values = plan.recipe.given()
            with without_heartbeat():
                for name in ("ingest", "deduplicate", "filter", "tokenizer", "tokenize"):
                    STAGE_FLOWS[name](values, self.workspace)

    def run(self, trials: Sequence[Trial], watch: Watch | None = None) -> list[Outcome]:
        """Train what is not done, a subflow each, and return the outcomes in the order of the trials.

        `watch` hears of each held-out evaluation while a trial trains, from whichever thread; True stops that trial,
        which is then "pruned". May be called again with further trials, by several threads at a time, too. Raises
        RecipeError or ValueError for settings that the run recipe refuses, and for corpus stages that are missing,
        before anything is trained; StoreError where the disk is full. A trial that fails is an outcome, not an error.
        """
        _check_names([*(outcome.trial for outcome in self.outcomes), *trials])
        plans = [self.plan(self._overrides(trial)) for trial in trials]
        for trial, plan in zip(trials, plans, strict=True):
            for parent in plan.stages["train"].inputs.values():
                if not parent.is_committed:
                    raise ValueError(f"trial {trial.name}: its corpus is not there (stage {parent.name}); prepare() it")
        self.files.write_record(state="running", trials=len(self._outcomes) + len(trials))
        self._tracking.open()
        progress = Progress(self.recipe.name, self.kind, len(trials))
        jobs = list(zip(trials, plans, strict=True))
        try:
            with without_heartbeat(), progress:
                missing = sum(not plan.refs["train"].is_committed for plan in plans)
                self._workers.start(min(self.recipe.concurrency, missing))
                if self.recipe.concurrency == 1 or len(jobs) < 2:
                    return [self._one(trial, plan, watch, progress) for trial, plan in jobs]
                return self._several(jobs, watch, progress)
        except BaseException as error:
            self._fail(error)
            raise

    def recall(self, outcomes: Iterable[Outcome]) -> None:
        """Count what earlier processes recorded among this one's outcomes; nothing is trained."""
        with self._lock:
            self._outcomes.update({outcome.trial.name: outcome for outcome in outcomes})

    def worker(self) -> AbstractContextManager[Worker]:
        """Have one of the processes that train the trials, for work on what they made."""
        return self._workers.one()

    def finish(self, results: Mapping[str, Any], page: Page) -> dict[str, Any]:
        """Write results.json and the page, and tell MLflow, Prefect and the catalog.

        Returns what the study's flow does: the results with its `fingerprint`, by which it is found among others.

        Of `results`, `metrics` (numbers by name) and `tables` ({name: {"columns", "rows"}}) reach MLflow and Prefect as
        such. Raises TrackingPending where MLflow could not be told; the same command tells it later.
        """
        self._workers.close()
        self.files.write_results(results, page, self.outcomes)
        write_catalog(self.workspace)
        publish_results(self.recipe.name, self.kind, results, page, self.outcomes, self.files)
        self.files.write_record(state="finished", trials=len(self._outcomes), lines=list(page.lines))
        self._tracking.finish(results, page, self.outcomes)
        return {"fingerprint": self.fingerprint, **results}

    def close(self) -> None:
        """End the workers; what they train is kept and goes on with the next study."""
        self._workers.close()
        self._tracking.close()

    def __enter__(self) -> Study:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        if error is None or isinstance(error, TrackingPending):
            self.close()
        else:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """End everything; the error stands in the record and in MLflow. A disk that is full hides no other error."""
        self._workers.close()
        with contextlib.suppress(StoreError):
            self.files.write_record(state="failed", error=f"{type(error).__name__}: {error}")
        with contextlib.suppress(OSError):
            self._tracking.close("FAILED")

    def _overrides(self, trial: Trial) -> list[str]:
        threads = self.recipe.threads or max(1, available_cores() // self.recipe.concurrency)
        return [*trial.overrides, f"train.training.threads={threads}"]

    def _several(self, jobs: list[tuple[Trial, Plan]], watch: Watch | None, progress: Progress) -> list[Outcome]:
        pool = ThreadPoolExecutor(self.recipe.concurrency, thread_name_prefix="trial")
        futures = [pool.submit(copy_context().run, self._one, trial, plan, watch, progress) for trial, plan in jobs]
        try:
            return [future.result() for future in futures]
        except BaseException:
            for future in futures:
                future.cancel()
            self._workers.close()
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def _one(self, trial: Trial, plan: Plan, watch: Watch | None, progress: Progress) -> Outcome:
        ref = plan.refs["train"]
        known = self.files.read_outcome(trial, ref.fingerprint)
        if ref.is_committed:
            outcome = outcome_of(trial, ref.committed(), known)
        elif known is not None and spares_training(known, plan):
            outcome = known
        else:
            outcome = self._trained(trial, plan, watch)
        if ref.is_committed:
            outcome = dataclasses.replace(outcome, cost=training_cost(plan))
        with self._lock:
            self._outcomes[trial.name] = outcome
            self.files.write_outcome(outcome)
        self._tracking.log(outcome)
        progress.add(outcome)
        return outcome

    def _trained(self, trial: Trial, plan: Plan, watch: Watch | None) -> Outcome:
        found: list[Outcome] = []

        def train(trial: str, parameters: dict[str, Any]) -> State:
            clock.wait()
            with occupied(self.recipe.limit), self._workers.one() as worker:
                clock.go_on()
                found.append(train_trial(given, plan, worker, clock, watch))
            return _state(found[-1])

        given, clock = trial, Clock()
        subflow = flow(name="trial", flow_run_name=trial.name, validate_parameters=False)(train)
        state = subflow(trial.name, dict(trial.parameters), return_state=True)
        if not found:
            state.result()  # raises what went wrong
        outcome = dataclasses.replace(found[0], overhead=clock.overhead())
        if not outcome.finished:
            get_run_logger().warning("trial %s: %s: %s", trial.name, outcome.state, outcome.error)
            publish({"stage": "trials", "line": f"{trial.name}: {outcome.state}: {outcome.error.splitlines()[0]}"})
        return outcome


def _state(outcome: Outcome) -> State[Any]:
    if outcome.state == "finished":
        return Completed(message=f"loss {outcome.loss:.4f}")
    if outcome.state == "pruned":
        return Completed(name="Pruned", message=outcome.error)
    return Failed(name=outcome.state.capitalize(), message=outcome.error)


def _check_names(trials: Sequence[Trial]) -> None:
    seen: dict[str, Trial] = {}
    for trial in trials:
        other = seen.setdefault(trial.name, trial)
        if other != trial:
            raise ValueError(f"two trials of a study are called {trial.name!r}, with different settings")
