"""The database that a search lives in: opened, checked to be of this very recipe, and cleared of what died.

All workers of a search, on this machine or others, share the study of the recipe's name in one storage. Each trial
carries the place and process that trains it; a trial whose process is gone is taken over under its own number, with the
settings that it had.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from flows.progress import publish
from flows.recipe import RecipeError

if TYPE_CHECKING:
    import optuna

STORAGE_VARIABLE = "HEADRACE_SEARCH_STORAGE"
"""Environment variable with the URL of the storage, password and all, where the recipe names none."""
IDENTITY = "headrace.recipe"
WORKER = "headrace.worker"
TRIES = "headrace.tries"
OUTCOME = "headrace.outcome"
"""Attributes of a study (the recipe that it is of) and of its trials, in the storage."""

BEAT_SECONDS = 15
GRACE_SECONDS = 90
"""A trial of another machine is given up when its heart has not beaten for so long, by the database's clock."""
MOST_TRIES = 3


def storage_url(given: str | None, workspace: str) -> str:
    """The recipe's storage, the environment's, or by default a file of the workspace.

    Raises RecipeError for a password in the recipe: recipes are kept, shown and sent.
    """
    if given is None:
        return os.environ.get(STORAGE_VARIABLE) or f"sqlite:///{Path(workspace, 'studies', 'search.db').resolve()}"
    if given != hidden(given):
        raise RecipeError(
            f"storage: {hidden(given)} holds a password, and recipes are kept and shown; leave it to the database's "
            f"own means (PGPASSWORD, ~/.pgpass), or put the whole URL into the environment as {STORAGE_VARIABLE}"
        )
    return given


def hidden(url: str) -> str:
    """A storage's URL without its password."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url).render_as_string(hide_password=True)
    except (ArgumentError, ValueError):
        raise RecipeError(
            f"storage: {url!r} is no URL of a database, such as sqlite:////data/search.db or "
            "postgresql+psycopg://user@host/headrace"
        ) from None


def open_storage(url: str) -> Any:
    """Open an Optuna storage, and make its tables where there are none.

    Raises ValueError where the database cannot be used, without its password.
    """
    route_logs()
    import sqlalchemy.event
    import sqlalchemy.exc
    from optuna.storages import RDBStorage

    arguments: dict[str, Any] = {"pool_pre_ping": True}
    if url.startswith("sqlite"):
        # Workers wait for each other's writes.
        arguments = {"connect_args": {"timeout": 60}}
        file = url.partition(":///")[2].partition("?")[0]
        if file:
            with contextlib.suppress(OSError):  # told of below, where the file cannot be opened
                Path(file).parent.mkdir(parents=True, exist_ok=True)
    try:
        storage = RDBStorage(url, engine_kwargs=arguments, heartbeat_interval=BEAT_SECONDS, grace_period=GRACE_SECONDS)
        if url.startswith("sqlite"):
            # A trial is some twenty small writes. With a write-ahead log none of them waits for the disk; what a power
            # failure may take, the trainings in the store give back.
            sqlalchemy.event.listen(storage.engine, "connect", _log_writes_ahead)
            storage.engine.dispose()
        return storage
    except ImportError as error:
        raise ValueError(
            f"storage {hidden(url)}: its driver is not installed ({error}); for PostgreSQL: pip install "
            "'psycopg[binary]' and a URL that begins with postgresql+psycopg://"
        ) from None
    except (sqlalchemy.exc.SQLAlchemyError, RuntimeError, AssertionError) as error:
        raise ValueError(f"storage {hidden(url)} cannot be used: {_first_line(error)}") from None


def _log_writes_ahead(connection: Any, _: Any) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")


def open_study(storage: Any, name: str, identity: Mapping[str, Any], where: str) -> optuna.Study:
    """Open the study of a name, or make it; `identity` is all that its trials have in common, as JSON values.

    Raises ValueError where the storage has a study of that name that was made with another recipe, saying what differs.
    """
    import optuna

    study = optuna.create_study(storage=storage, study_name=name, direction="minimize", load_if_exists=True)
    text = json.dumps(identity, sort_keys=True)
    if IDENTITY not in study.user_attrs and not study.get_trials(deepcopy=False):
        study.set_user_attr(IDENTITY, text)
    found = study.user_attrs.get(IDENTITY)
    if found is None or study.direction is not optuna.study.StudyDirection.MINIMIZE:
        raise ValueError(f"{where} holds a study {name!r} that is no search of Headrace; give the recipe another name")
    if found != text:
        differences = list(_differences(json.loads(found), json.loads(text)))
        shown = "\n".join(f"  {line}" for line in differences[:20])
        raise ValueError(
            f"{where} holds a study {name!r} that was made with another recipe:\n{shown}\n"
            "Its trials cannot be compared with new ones. Give the recipe another name (--set name=...), or set back "
            "what differs."
        )
    return study


def _differences(there: Any, here: Any, at: str = "") -> Iterator[str]:
    if isinstance(there, dict) and isinstance(here, dict):
        for key in sorted({*there, *here}):
            yield from _differences(there.get(key), here.get(key), f"{at} > {key}" if at else key)
    elif there != here:
        yield f"{at}: there {json.dumps(there)}, here {json.dumps(here)}"


def this_worker() -> dict[str, Any]:
    """Who trains: the machine (or container), the process, and when that started."""
    return {"place": _place(), "process": os.getpid(), "started": round(psutil.Process().create_time(), 1)}


def _place() -> str:
    """Where process numbers mean the same."""
    try:
        return f"{socket.gethostname()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


def _is_gone(worker: Mapping[str, Any]) -> bool:
    """Whether a worker of this very place has died; of another place it cannot be told."""
    if worker["place"] != _place():
        return False
    try:
        return abs(psutil.Process(worker["process"]).create_time() - worker["started"]) > 1
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False


def free_lost(study: optuna.Study) -> int:
    """Put the trials of dead workers back into the queue, and return how many there were.

    A trial that has lost its worker MOST_TRIES times is failed instead: it may be what ends them. Where two workers
    find the same one at the same moment, it may be trained twice; the first result counts.
    """
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import TrialState

    storage = study._storage
    stale = set(storage._get_stale_trial_ids(study._study_id))  # type: ignore[attr-defined]
    freed = 0
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        worker = trial.user_attrs.get(WORKER)
        started = trial.datetime_start.timestamp() if trial.datetime_start is not None else 0.0
        unclaimed = worker is None and time.time() - started > GRACE_SECONDS
        if not (trial._trial_id in stale or unclaimed or (worker is not None and _is_gone(worker))):
            continue
        with contextlib.suppress(UpdateFinishedTrialError):
            if int(trial.user_attrs.get(TRIES, 1)) >= MOST_TRIES:
                reason = f"its process died {MOST_TRIES} times"
                storage.set_trial_user_attr(
                    trial._trial_id, OUTCOME, {"state": "failed", "error": reason, "device_hours": 0.0}
                )
                storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
                say(f"trial {trial.number} has failed: {reason}")
            else:
                storage.record_heartbeat(trial._trial_id)  # type: ignore[attr-defined]
                storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)
                freed += 1
                say(f"trial {trial.number} was left by a worker that is gone; it is done again")
    return freed


def release(study: optuna.Study, trial: optuna.Trial) -> None:
    """Put a trial that this worker does not end back into the queue, with its settings."""
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import TrialState

    with contextlib.suppress(UpdateFinishedTrialError):
        # This worker is well, so it does not count as one that the trial has lost.
        study._storage.set_trial_user_attr(trial._trial_id, TRIES, max(0, int(trial.user_attrs.get(TRIES, 0)) - 1))
        study._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)


class Hearts:
    """Keeps the hearts of this process's running trials beating in the storage, from a thread of its own."""

    def __init__(self, storage: Any) -> None:
        self._storage = storage
        self._trials: set[int] = set()
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="search-hearts", daemon=True)

    def __enter__(self) -> Hearts:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def add(self, trial: optuna.Trial) -> None:
        """Claim a trial for this process, and begin."""
        trial.set_user_attr(WORKER, this_worker())
        trial.set_user_attr(TRIES, int(trial.user_attrs.get(TRIES, 0)) + 1)
        self._storage.record_heartbeat(trial._trial_id)
        with self._lock:
            self._trials.add(trial._trial_id)

    def remove(self, trial: optuna.Trial) -> None:
        """A trial has come to its end."""
        with self._lock:
            self._trials.discard(trial._trial_id)

    def _beat(self) -> None:
        missed = 0
        while not self._end.wait(BEAT_SECONDS):
            with self._lock:
                trials = sorted(self._trials)
            try:
                for trial in trials:
                    self._storage.record_heartbeat(trial)
                missed = 0
            except Exception as error:  # a database that is away for a while stops no training
                missed += 1
                if missed == 1:
                    say(f"the storage cannot be reached ({_first_line(error)}); trials go on")


class _ToProgress(logging.Handler):
    """Hands Optuna's words to whoever watches the study."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


def route_logs() -> None:
    """Have Optuna tell its warnings to whoever watches the study, instead of the terminal."""
    import optuna

    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    warnings.filterwarnings("ignore", message="Heartbeat of storage is supposed", category=UserWarning)
    optuna.logging.disable_default_handler()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logger = logging.getLogger("optuna")
    if not any(isinstance(handler, _ToProgress) for handler in logger.handlers):
        logger.addHandler(_ToProgress())


def say(line: str) -> None:
    """Tell a line to whoever watches the study."""
    publish({"stage": "search", "line": line})


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
