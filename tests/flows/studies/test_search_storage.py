"""The storage of a search: whose study it is, and what becomes of the trials of workers that died."""

from __future__ import annotations

import multiprocessing
import sqlite3
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from flows.progress import listening
from flows.recipe import RecipeError
from flows.studies.search import storage as of_storage
from flows.studies.search.recipe import load_search_recipe
from flows.studies.search.storage import (
    GRACE_SECONDS,
    OUTCOME,
    TRIES,
    WORKER,
    Hearts,
    free_lost,
    open_storage,
    open_study,
    release,
    storage_url,
    this_worker,
)
from tests.flows.conftest import wait_until

SPACE = {"rate": {"type": "float", "low": 0.001, "high": 0.1, "log": True}}
RECIPE = load_search_recipe({"name": "some", "base": "quickstart", "space": SPACE, "budget": {"trials": 9}})
DISTRIBUTIONS = {key: one.distribution() for key, one in RECIPE.space.items()}


@pytest.fixture(scope="module")
def postgresql() -> Iterator[Any]:
    """A PostgreSQL server of our own, on a socket."""
    pgserver = pytest.importorskip("pgserver", reason="pgserver has no wheel for this Python")
    pytest.importorskip("psycopg")
    # Not in pytest's folder: root's server runs as a user who may not look in there.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        server = pgserver.get_server(folder)
        yield server
        server.cleanup()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/s.db"
    server, name = request.getfixturevalue("postgresql"), f"search_{uuid.uuid4().hex}"
    server.psql(f"CREATE DATABASE {name};")
    return f"postgresql+psycopg://postgres@/{name}?host={server.pgdata}"


def opened(url: str, identity: Any = 1) -> Any:
    return open_study(open_storage(url), "some", {"recipe": identity}, url)


def test_study_of_another_recipe_is_refused(url: str) -> None:
    recipe = {"train": {"steps": 300, "seed": 1}, "space": {"rate": {"low": 0.1}}}
    opened(url, recipe)
    opened(url, recipe)
    other = {"train": {"steps": 500, "seed": 1}, "space": {"rate": {"low": 0.1}, "layers": {"low": 1}}}
    with pytest.raises(ValueError, match="'some' that was made with another recipe") as caught:
        opened(url, other)
    assert "recipe > train > steps: there 300, here 500" in str(caught.value)
    assert "recipe > space > layers > low" in str(caught.value) or "recipe > space > layers" in str(caught.value)
    assert "seed" not in str(caught.value)


def test_study_of_something_else_is_refused(tmp_path: Path) -> None:
    import optuna

    storage = open_storage(f"sqlite:///{tmp_path}/s.db")
    optuna.create_study(storage=storage, study_name="some").ask(DISTRIBUTIONS)
    with pytest.raises(ValueError, match="no search of Headrace"):
        open_study(storage, "some", {}, "here")
    optuna.create_study(storage=storage, study_name="up", direction="maximize")
    with pytest.raises(ValueError, match="no search of Headrace"):
        open_study(storage, "up", {}, "here")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite:////proc/none/s.db", "cannot be used: .*unable to open database file"),
        ("postgresql+psycopg2://ada@localhost:1/x", "driver is not installed|Connection refused"),
        ("nosql://ada@localhost/x", "cannot be used"),
        ("no url", "is no URL of a database"),
    ],
)
def test_storage_that_cannot_be_used(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        open_storage(url)


def test_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "s.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(ValueError, match="file is not a database"):
        open_storage(f"sqlite:///{tmp_path}/s.db")


def test_passwords_stay_out_of_recipes_and_messages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="holds a password") as caught:
        storage_url("postgresql+psycopg2://ada:secret1@localhost:1/x", str(tmp_path))
    with pytest.raises(ValueError, match="driver|cannot be used") as other:
        open_storage("postgresql+psycopg2://ada:secret1@localhost:1/x")
    assert "secret1" not in f"{caught.value} {other.value}"
    assert storage_url(None, str(tmp_path)) == f"sqlite:///{tmp_path}/studies/search.db"
    monkeypatch.setenv("HEADRACE_SEARCH_STORAGE", "postgresql://ada:secret1@host/x")
    assert storage_url(None, str(tmp_path)) == "postgresql://ada:secret1@host/x"
    assert storage_url("sqlite:////s.db", str(tmp_path)) == "sqlite:////s.db"


def process(work: Callable[[Any, Hearts], None], url: str) -> Any:
    """A process of its own at the same storage; forked, as loading everything anew would take seconds."""

    def run() -> None:
        study = opened(url)
        with Hearts(study._storage) as hearts:
            work(study, hearts)

    one = multiprocessing.get_context("fork").Process(target=run)
    one.start()
    return one


def test_trial_of_a_killed_process_is_done_again(url: str) -> None:
    """Under its own number, with its settings and what it had reported, and not while its process lives."""

    def work(study: Any, hearts: Hearts) -> None:
        one = study.ask(DISTRIBUTIONS)
        hearts.add(one)
        one.report(3.0, 10)
        time.sleep(120)

    study = opened(url)
    worker = process(work, url)
    try:
        wait_until(lambda: any(trial.intermediate_values for trial in study.trials), "the trial's first report")
        (before,) = study.trials
        assert free_lost(study) == 0
    finally:
        worker.kill()
        worker.join()
    assert free_lost(study) == 1
    one = study.ask(DISTRIBUTIONS)
    assert (one.number, one.params) == (0, before.params)
    assert study.trials[0].intermediate_values == {10: 3.0}
    study.tell(one, 2.0)
    assert [(trial.state.name, trial.value) for trial in study.trials] == [("COMPLETE", 2.0)]


def test_trial_that_loses_its_worker_time_and_again_is_failed(url: str) -> None:
    study = opened(url)
    gone = this_worker() | {"started": 1.0}
    lines: list[str] = []
    for attempt in range(1, 4):
        one = study.ask(DISTRIBUTIONS)
        with Hearts(study._storage) as hearts:
            hearts.add(one)
        assert (one.number, study.trials[0].user_attrs[TRIES]) == (0, attempt)
        one.set_user_attr(WORKER, gone)
        with listening(lambda event: lines.append(event["line"])):
            assert free_lost(study) == (attempt < 3)
    assert ["is done again" in line for line in lines] == [True, True, False]
    assert lines[-1] == "trial 0 has failed: its process died 3 times"
    (trial,) = study.trials
    assert trial.state.name == "FAIL"
    assert "its process died 3 times" in trial.user_attrs[OUTCOME]["error"]


def test_trial_that_is_put_back_has_lost_nobody(url: str) -> None:
    study = opened(url)
    for _ in range(5):
        one = study.ask(DISTRIBUTIONS)
        with Hearts(study._storage) as hearts:
            hearts.add(one)
        release(study, one)
    assert (one.number, study.trials[0].state.name, study.trials[0].user_attrs[TRIES]) == (0, "WAITING", 0)


def test_trial_of_another_machine_is_given_up_by_its_heart(url: str) -> None:
    study = opened(url)
    one = study.ask(DISTRIBUTIONS)
    with Hearts(study._storage) as hearts:
        hearts.add(one)
    one.set_user_attr(WORKER, this_worker() | {"place": "another machine"})
    assert free_lost(study) == 0

    engine = study._storage._backend.engine
    earlier = {
        "sqlite": "datetime(heartbeat, '-' || :seconds || ' seconds')",
        "postgresql": "heartbeat - make_interval(secs => :seconds)",
    }[engine.dialect.name]

    def pass_seconds(seconds: int) -> None:
        with engine.begin() as connection:
            connection.execute(
                sqlalchemy.text(f"UPDATE trial_heartbeats SET heartbeat = {earlier}"), {"seconds": seconds}
            )

    pass_seconds(GRACE_SECONDS - 30)
    assert free_lost(study) == 0
    pass_seconds(60)
    assert free_lost(study) == 1
    assert study.trials[0].state.name == "WAITING"


def test_hearts_beat_again_when_the_storage_was_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_storage, "BEAT_SECONDS", 0.05)
    study = opened(f"sqlite:///{tmp_path}/s.db")
    one = study.ask(DISTRIBUTIONS)
    lines: list[str] = []

    def change(sql: str) -> None:
        with sqlite3.connect(tmp_path / "s.db", timeout=60) as connection:
            connection.execute(sql)

    with listening(lambda event: lines.append(event["line"])), Hearts(study._storage) as hearts:
        hearts.add(one)
        change("ALTER TABLE trial_heartbeats RENAME TO away")
        wait_until(lambda: bool(lines), "a word on the storage", 60)
        change("UPDATE away SET heartbeat = datetime('now', '-1 hour')")
        change("ALTER TABLE away RENAME TO trial_heartbeats")
        wait_until(lambda: not study._storage._get_stale_trial_ids(study._study_id), "a beat", 60)
    assert len(lines) == 1
    assert "cannot be reached" in lines[0]


def test_workers_on_one_storage_share_the_trials(url: str) -> None:
    """Three processes ask for 18 trials: no number twice, no settings lost."""

    def work(study: Any, hearts: Hearts) -> None:
        for _ in range(6):
            one = study.ask(DISTRIBUTIONS)
            study.tell(one, one.params["rate"])

    opened(url)
    workers = [process(work, url) for _ in range(3)]
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    trials = opened(url).trials
    assert [trial.number for trial in trials] == list(range(18))
    assert all(trial.value == trial.params["rate"] for trial in trials)
