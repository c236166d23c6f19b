"""One worker's part of a search: ask for settings, train, tell, until the budget of all workers is used up."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Literal

from flows.progress import publish
from flows.recipe import RecipeError
from flows.studies.search.evolution import grid_points
from flows.studies.search.recipe import SearchRecipe
from flows.studies.search.samplers import Grid
from flows.studies.search.space import Value, override
from flows.studies.search.storage import OUTCOME, Hearts, free_lost, release, say
from flows.studies.study import Study
from flows.studies.trial import Outcome, Point, Trial

if TYPE_CHECKING:
    import optuna

AGAIN_SECONDS = 5.0
"""After which a thread asks anew for a trial that the budget may have room for later."""


class Session:
    """Runs trials of a search in this process. `expected` are the device hours of a whole trial, where known."""

    def __init__(
        self,
        recipe: SearchRecipe,
        study: Study,
        storage: optuna.Study,
        hearts: Hearts,
        processes: int,
        expected: float | None = None,
    ) -> None:
        self._recipe, self._study, self._storage, self._hearts = recipe, study, storage, hearts
        self._processes, self._expected = processes, expected
        self._distributions = {key: one.distribution() for key, one in recipe.space.items()}
        self._running: dict[str, optuna.Trial] = {}
        self._reported: dict[int, set[int]] = {}
        """Steps of each running trial whose losses the storage has, from an earlier try maybe."""
        self._lock, self._asking, self._ended = threading.Lock(), threading.Lock(), threading.Event()

    def run(self) -> None:
        """Run trials until the budget ends, as many at a time as the recipe says, each begun when another has ended.

        Raises what `Study.run` raises; trials that run then are put back.
        """
        self._publish("started")
        if self._recipe.concurrency == 1:
            self._work()
        else:
            self._study.run([])  # opens what the threads share
            with ThreadPoolExecutor(self._recipe.concurrency, thread_name_prefix="search") as pool:
                futures = [pool.submit(copy_context().run, self._work) for _ in range(self._recipe.concurrency)]
                try:
                    for future in as_completed(futures):
                        future.result()
                except BaseException:
                    self._ended.set()
                    self._study.close()
                    raise
        self._publish("committed")

    def _work(self) -> None:
        while not self._ended.is_set():
            with self._asking:
                one = self._ask()
            if one is None:
                return
            if isinstance(one, str):  # "later"
                self._ended.wait(AGAIN_SECONDS)
                continue
            trial = trial_of(one)
            self._running[trial.name] = one
            self._reported[one.number] = set(self._storage._storage.get_trial(one._trial_id).intermediate_values)
            try:
                (outcome,) = self._study.run([trial], self._watch)
                self._tell(one, outcome)
            except BaseException:
                self._hearts.remove(one)
                release(self._storage, one)
                raise
            finally:
                del self._running[trial.name], self._reported[one.number]
            self._publish()

    def _ask(self) -> optuna.Trial | Literal["later"] | None:
        """The next trial to run; "later" where that cannot be said yet, None where the budget has no room for one."""
        free_lost(self._storage)
        while (room := self._room()) != "none":
            if room == "later":
                return room
            one = self._storage.ask(self._distributions)
            if one.number >= most_trials(self._recipe):
                release(self._storage, one)  # another worker asked at the same moment
                return None
            self._hearts.add(one)
            trial = trial_of(one)
            try:
                self._study.plan(trial.overrides)
            except RecipeError as error:
                # Corners were tried before, but not every combination.
                self._tell(one, Outcome(trial, "failed", str(error)))
                continue
            return one
        return None

    def _publish(self, state: str = "") -> None:
        """Tell how far the search is, and the best loss so far."""
        trials = self._storage.get_trials(deepcopy=False)
        losses = [one.value for one in trials if one.value is not None and one.state.name == "COMPLETE"]
        event: dict[str, Any] = {"stage": "search", "done": sum(one.state.is_finished() for one in trials)}
        most = most_trials(self._recipe)
        event |= {"total": int(most)} if math.isfinite(most) else {}
        event |= {"best_loss": min(losses)} if losses else {}
        publish(event | ({"state": state} if state else {}))

    def _room(self) -> Literal["some", "later", "none"]:
        """Whether the budget takes another trial, beside those that run; "later": the first one's end will tell."""
        from optuna.trial import TrialState

        trials = self._storage.get_trials(deepcopy=False)
        most = most_trials(self._recipe)
        waiting = any(one.state == TrialState.WAITING and one.number < most for one in trials)
        if not waiting and len(trials) >= most:
            return "none"
        hours = self._recipe.budget.device_hours
        if hours is None:
            return "some"
        held = [one.user_attrs[OUTCOME]["device_hours"] for one in trials if OUTCOME in one.user_attrs]
        whole = [value for value in held if value > 0]
        expected = sum(whole) / len(whole) if whole else self._expected
        running = sum(one.state == TrialState.RUNNING for one in trials)
        if expected is None:
            return "later" if running else "some"  # the first one tells how long they are
        return "some" if sum(held) + (running + 1) * expected <= hours else "none"

    def _watch(self, trial: Trial, point: Point) -> bool:
        """Report a held-out loss; True where the pruner stops the trial."""
        import sqlalchemy.exc
        from optuna.exceptions import StorageInternalError

        one = self._running[trial.name]
        try:
            with self._lock:
                self._report(one, point)
                return bool(one.should_prune())
        except (sqlalchemy.exc.SQLAlchemyError, StorageInternalError) as error:
            say(f"{trial.name}: its loss at step {point.step} could not be told to the storage: {error}")
            return False

    def _report(self, one: optuna.Trial, point: Point) -> None:
        """Report a held-out loss at its step, unless it was reported before."""
        reported = self._reported.setdefault(one.number, set())
        if math.isfinite(point.loss) and point.step not in reported:
            one.report(point.loss, point.step)
            reported.add(point.step)

    def _tell(self, one: optuna.Trial, outcome: Outcome) -> None:
        """Write what came of a trial into the storage. What another worker told before stays."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        facts = {name: value for name, value in outcome.as_json().items() if name not in ("curve", "checkpoint")}
        try:
            for point in outcome.curve:
                self._report(one, point)
            one.set_user_attr(OUTCOME, facts | {"device_hours": device_hours(outcome, self._processes)})
            if outcome.finished and math.isfinite(outcome.loss):
                self._storage.tell(one, outcome.loss)
            else:
                # Settings that diverge are known to be bad, a trial that died says nothing of its settings.
                bad = outcome.state in ("pruned", "diverged")
                self._storage.tell(one, state=TrialState.PRUNED if bad else TrialState.FAIL)
        except (UpdateFinishedTrialError, ValueError) as error:
            say(f"{outcome.trial.name}: another worker told of it first ({error})")
        finally:
            self._hearts.remove(one)


def trial_of(one: optuna.Trial | optuna.trial.FrozenTrial) -> Trial:
    """A trial of the storage as the study runs it."""
    settings: Mapping[str, Value] = one.params
    return Trial(
        f"trial-{one.number:04d}",
        tuple(override(key, value) for key, value in settings.items()),
        {key: "null" if value is None else value for key, value in settings.items()},
    )


def most_trials(recipe: SearchRecipe) -> float:
    """How many trials the budget and the grid allow."""
    limits: list[float] = [math.inf if recipe.budget.trials is None else recipe.budget.trials]
    if isinstance(recipe.sampler, Grid):
        limits.append(len(grid_points(recipe.space)))
    return min(limits)


def device_hours(outcome: Outcome, processes: int) -> float:
    """Hours that a trial held its devices: as metered, or else by the clock."""
    metered = outcome.cost.get("device_hours", 0.0)
    return max(metered, (outcome.seconds + outcome.overhead) * processes / 3600)


def search_facts(trials: Sequence[optuna.trial.FrozenTrial]) -> list[dict[str, Any]]:
    """What the storage knows of the trials that have begun, a row each, in the order of their numbers."""
    from optuna.trial import TrialState

    rows = []
    for one in sorted(trials, key=lambda one: one.number):
        if one.state == TrialState.WAITING:
            continue
        facts = one.user_attrs.get(OUTCOME, {})
        rows.append(
            {
                "number": one.number,
                "name": f"trial-{one.number:04d}",
                "state": facts.get("state", "running"),
                "error": facts.get("error", ""),
                "loss": one.value if one.state == TrialState.COMPLETE else facts.get("loss"),
                "settings": dict(one.params),
                "curve": sorted(one.intermediate_values.items()),
                "device_hours": facts.get("device_hours", 0.0),
                "tokens": facts.get("tokens", 0),
                "parameters": facts.get("parameter_count", 0),
                "fingerprint": facts.get("fingerprint", ""),
            }
        )
    return rows
