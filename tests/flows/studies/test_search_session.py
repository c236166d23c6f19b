"""A worker's part of a search: budget, pruning, failures, several workers; and what the trials say together.

The trainings here are formulas of their settings, so that many of them cost nothing; test_search_flow
trains models.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from flows.recipe import RecipeError
from flows.studies.search import session as of_session
from flows.studies.search.page import lines_of, page_of
from flows.studies.search.recipe import SearchRecipe, load_search_recipe
from flows.studies.search.results import results_of
from flows.studies.search.samplers import make_pruner, make_sampler
from flows.studies.search.session import Session
from flows.studies.search.storage import Hearts, open_storage, open_study
from flows.studies.trial import Outcome, Point, Trial
from pipeline.store import StoreError

SPACE = {
    "train.optimizer.learning_rate": {"type": "float", "low": 1e-4, "high": 1.0, "log": True},
    "train.training.seed": {"type": "int", "low": 1, "high": 9},
}


class Formula:
    """Stands for a study whose trainings reach a loss that their learning rate decides."""

    def __init__(self, hours: float = 0.1, seconds: float = 0.0) -> None:
        self.hours, self.seconds = hours, seconds
        self.began: list[Trial] = []
        self.at_once = self.most_at_once = 0
        self.fail: Callable[[Trial], None] = lambda trial: None
        self._lock = threading.Lock()

    def plan(self, overrides: Sequence[str]) -> None:
        settings = settings_of(overrides)
        if settings["train.optimizer.learning_rate"] > 0.4:
            raise RecipeError("learning_rate: too high")

    def run(self, trials: Sequence[Trial], watch: Any = None) -> list[Outcome]:
        return [self._one(trial, watch) for trial in trials]

    def _one(self, trial: Trial, watch: Any) -> Outcome:
        with self._lock:
            self.began.append(trial)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            time.sleep(self.seconds)
            self.fail(trial)
            rate = settings_of(trial.overrides)["train.optimizer.learning_rate"]
            if rate > 0.3:
                return Outcome(trial, "diverged", "the loss became nan by step 20", seconds=3600 * self.hours)
            if rate < 2e-4:
                return Outcome(trial, "failed", "the training process died: signal SIGKILL\nmore")
            curve = [Point(step, 100 * step, 1.0, loss_of(rate) + 10 / step) for step in (10, 20, 30, 60, 90)]
            for place, point in enumerate(curve):
                if watch(trial, point):
                    seen = tuple(curve[: place + 1])
                    return Outcome(trial, "pruned", "stopped", point.loss, seen, seconds=3600 * self.hours / 10)
            return Outcome(trial, "finished", "", curve[-1].loss, tuple(curve), seconds=3600 * self.hours)
        finally:
            with self._lock:
                self.at_once -= 1

    def close(self) -> None:
        """Nothing runs elsewhere."""


def settings_of(overrides: Sequence[str]) -> dict[str, Any]:
    return {key: yaml.safe_load(text) for key, _, text in (one.partition("=") for one in overrides)}


def loss_of(rate: float) -> float:
    return 2 + (math.log10(rate) + 2) ** 2


class Worker:
    """A process's part: its own connection to the storage."""

    def __init__(
        self, tmp_path: Path, study: Formula | None = None, expected: float | None = None, **changes: Any
    ) -> None:
        values = {"name": "some", "base": "quickstart", "space": SPACE, "budget": {"trials": 7}}
        self.recipe: SearchRecipe = load_search_recipe(values | {"sampler": {"name": "random"}} | changes)
        self.study = study or Formula()
        self.storage = open_study(open_storage(f"sqlite:///{tmp_path}/s.db"), "some", {}, "here")
        self.storage.sampler = make_sampler(self.recipe.sampler, self.recipe.space, self.recipe.seed)
        self.storage.pruner = make_pruner(self.recipe.pruner, 90, 10)
        self.expected = expected

    def run(self) -> Worker:
        with Hearts(self.storage._storage) as hearts:
            study: Any = self.study
            Session(self.recipe, study, self.storage, hearts, 1, self.expected).run()
        return self

    def results(self) -> dict[str, Any]:
        base: Any = SimpleNamespace(recipe=SimpleNamespace(dump=lambda: {}))
        return results_of(self.recipe, self.storage, base)


def test_search_ends_with_its_budget_and_goes_on_with_a_larger_one(tmp_path: Path) -> None:
    space = {"train.optimizer.learning_rate": {"type": "float", "low": 1e-3, "high": 0.2, "log": True}}  # all are taken
    first = Worker(tmp_path, space=space).run()
    assert [trial.name for trial in first.study.began] == [f"trial-{number:04d}" for number in range(7)]
    again = Worker(tmp_path, space=space).run()
    assert again.study.began == []
    more = Worker(tmp_path, space=space, budget={"trials": 9}).run()
    assert [trial.name for trial in more.study.began] == ["trial-0007", "trial-0008"]
    assert len({trial.overrides for trial in (*first.study.began, *more.study.began)}) == 9


def test_every_trial_is_told_as_what_it_became(tmp_path: Path) -> None:
    worker = Worker(tmp_path, budget={"trials": 16}).run()
    results = worker.results()
    for row in results["history"]:
        rate = row["settings"]["train.optimizer.learning_rate"]
        expected = "failed" if rate > 0.4 or rate < 2e-4 else "diverged" if rate > 0.3 else "finished"
        assert row["state"] == expected
        if expected == "finished":
            assert row["loss"] == pytest.approx(loss_of(rate) + 10 / 90)
            assert [step for step, _ in row["curve"]] == [10, 20, 30, 60, 90]
    assert all(results["states"][state] > 0 for state in ("finished", "diverged", "failed"))
    lost = next(row for row in results["history"] if "SIGKILL" in row["error"])
    refused = next(row for row in results["history"] if "too high" in row["error"])
    named = {row["name"] for row in results["history"] if row["state"] in ("failed", "diverged")}
    page = page_of(worker.recipe, results, "name: best\n").html()
    assert all(name in page for name in (*named, lost["name"], refused["name"]))
    assert any("SIGKILL" in line and "more" not in line for line in lines_of(worker.recipe, results)) or len(named) > 5
    best = min((row for row in results["history"] if row["state"] == "finished"), key=lambda row: row["loss"])
    assert results["best"] == best
    # A few trials tell it roughly: the loss depends on the rate alone.
    assert results["importance"]["train.optimizer.learning_rate"] > results["importance"]["train.training.seed"]
    assert sum(results["importance"].values()) == pytest.approx(1.0)
    assert results["best_so_far"][-1][1] == best["loss"]


def test_device_hours_are_never_overdrawn(tmp_path: Path) -> None:
    """Each training takes 0.1 hours: three fit into 0.35, and with 0.55 two more."""
    space = {"train.optimizer.learning_rate": {"type": "float", "low": 0.001, "high": 0.1, "log": True}}
    first = Worker(tmp_path, space=space, budget={"device_hours": 0.35}).run()
    assert len(first.study.began) == 3
    assert first.results()["device_hours"] == pytest.approx(0.3)
    assert len(Worker(tmp_path, space=space, budget={"device_hours": 0.55}).run().study.began) == 2


def test_first_trials_at_a_time_fit_into_the_budget_by_what_is_expected_of_them(tmp_path: Path) -> None:
    study = Formula(seconds=0.2)
    Worker(tmp_path, study, expected=0.1, concurrency=4, budget={"device_hours": 0.25}).run()
    assert len(study.began) == 2


def test_once_the_first_trial_has_told_how_long_it_takes_others_run_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_session, "AGAIN_SECONDS", 0.02)
    space = {"train.optimizer.learning_rate": {"type": "float", "low": 0.001, "high": 0.1, "log": True}}
    study = Formula(seconds=0.2)
    at_first: list[int] = []
    study.fail = lambda trial: at_first.append(study.at_once)
    Worker(tmp_path, study, space=space, concurrency=3, budget={"device_hours": 0.75}).run()
    assert len(study.began) == 7
    assert at_first[0] == 1
    assert study.most_at_once == 3


@pytest.mark.parametrize("name", ["halving", "hyperband", "median"])
def test_pruner_stops_the_worse_trials(tmp_path: Path, name: str) -> None:
    worker = Worker(tmp_path, pruner={"name": name}, budget={"trials": 10}).run()
    rows = worker.results()["history"]
    pruned = [row for row in rows if row["state"] == "pruned"]
    finished = [row for row in rows if row["state"] == "finished"]
    assert pruned
    assert finished

    def least(some: list[dict[str, Any]]) -> float:
        return min(loss_of(row["settings"]["train.optimizer.learning_rate"]) for row in some)

    assert least(finished) <= least(pruned)
    assert all(len(row["curve"]) < 5 for row in pruned)
    best = worker.results()["best"]
    assert best["loss"] == min(row["loss"] for row in finished)


def test_workers_share_the_budget(tmp_path: Path) -> None:
    """Two processes' parts with three trials at a time each: seven trials in all, each once."""
    workers = [Worker(tmp_path, Formula(seconds=0.05), concurrency=3) for _ in range(2)]
    threads = [threading.Thread(target=worker.run) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    began = [trial.name for worker in workers for trial in worker.study.began]
    known = {row["name"]: row for row in workers[0].results()["history"]}
    trained = {name for name, row in known.items() if "too high" not in row["error"]}
    assert len(known) == 7
    assert sorted(began) == sorted(trained)
    assert all(worker.study.most_at_once <= 3 for worker in workers)
    assert all(row["state"] != "running" for row in known.values())


def test_trials_that_run_when_the_disk_is_full_are_done_again(tmp_path: Path) -> None:
    whole = Worker(tmp_path / "whole").run()
    study = Formula(seconds=0.02)

    def fill(trial: Trial) -> None:
        if trial.name == "trial-0005":
            raise StoreError("no space left")

    study.fail = fill
    with pytest.raises(StoreError, match="no space left"):
        Worker(tmp_path / "full", study, concurrency=2).run()
    assert study.at_once == 0
    again = Worker(tmp_path / "full").run()
    assert "trial-0005" in [trial.name for trial in again.study.began]
    history = [(row["name"], row["settings"], row["state"]) for row in again.results()["history"]]
    assert history == [(row["name"], row["settings"], row["state"]) for row in whole.results()["history"]]


def test_grid_ends_with_its_last_point(tmp_path: Path) -> None:
    space = {
        "train.optimizer.learning_rate": {"type": "float", "low": 1e-3, "high": 0.1, "log": True, "points": 3},
        "train.training.seed": {"type": "categorical", "choices": [1, 2]},
    }
    worker = Worker(tmp_path, space=space, sampler={"name": "grid"}, budget={"device_hours": 99.0}).run()
    assert len({trial.overrides for trial in worker.study.began}) == len(worker.study.began) == 6
    assert worker.results()["complete"]
    assert worker.results()["best"]["settings"]["train.optimizer.learning_rate"] == pytest.approx(0.01)


def test_best_at_an_end_of_its_range_is_said(tmp_path: Path) -> None:
    space = {"train.optimizer.learning_rate": {"type": "float", "low": 1e-3, "high": 0.01, "log": True, "points": 3}}
    worker = Worker(tmp_path, space=space, sampler={"name": "grid"}).run()
    (line,) = [line for line in lines_of(worker.recipe, worker.results()) if "end of its range" in line]
    assert "learning_rate lies at the high end" in line


def test_search_of_which_nothing_finished(tmp_path: Path) -> None:
    space = {"train.optimizer.learning_rate": {"type": "float", "low": 0.32, "high": 0.39}}
    worker = Worker(tmp_path, space=space, budget={"trials": 2}).run()
    results = worker.results()
    assert results["best"] is None
    lines = lines_of(worker.recipe, results)
    assert lines[0].startswith("No trial has finished")
    assert any("trial-0001 diverged: the loss became nan" in line for line in lines)
    assert "No trial has finished" in page_of(worker.recipe, results, None).html()
