"""Follows a training and tells MLflow about it, from a thread of its own: a tracker that is down stops nothing.

Everything to be told lies in files first: metrics in the trainer's journal, all else as requests in `outbox.jsonl`.
What the tracker already has is in `state.json`. So whatever a killed process, a dead server or a full disk left undone
is done by the next sender on the same folder, and what was done is not done again:

- A request carries a key; it is carried out again only if what it asks for has changed.
- Of each metric only steps above the last one sent go out, so a journal that was cut back for a resume, and grows anew
  with the same steps, repeats nothing. A batch is announced in the state before it leaves; where its fate is unknown
  after a crash, the tracker is asked for the last step that it has.
- Runs, models and versions are looked up by fingerprint before they are made.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from training.tracking.delivery import Delivery, first_line
from training.tracking.journal import Position, read_lines
from training.tracking.location import Location
from training.tracking.state import State, append_line, digest_of, load_state, locked, save_state
from training.tracking.tracker import RunGone, Tracker, retry_delays

log = logging.getLogger(__name__)


class Sender:
    """Sends one run's metrics, checkpoints and files to MLflow.

    `folder` keeps the requests and the state; use the same one when a run resumes. The methods named `log_...`,
    `start_run`, `register_best` and `finish` write a request and return; a background thread carries it out. Only
    `start_run`, `flush` and `close` wait, and never longer than they are told. A request that MLflow refuses is
    reported in the log and in `failures`.
    """

    def __init__(
        self,
        folder: str | Path,
        location: Location,
        journal: str | Path | None = None,
        *,
        interval_seconds: float = 2.0,
        first_retry_seconds: float = 1.0,
    ) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.location = location
        self.journal = None if journal is None else Path(journal)
        self.interval_seconds = interval_seconds
        self._delay = retry_delays(first_retry_seconds)
        self._outbox = self.folder / "outbox.jsonl"
        self._state_path = self.folder / "state.json"
        self._tracker: Tracker | None = None
        self._checked = False
        self._reported_down = False
        self._thread: threading.Thread | None = None
        self._condition = threading.Condition()
        self._asked = 0
        self._answered = 0
        self._succeeded = 0
        self._closing = False
        self._last_digests = self._read_last_digests()

    # What the run has to tell.

    def start_run(
        self,
        experiment: str,
        name: str,
        recipe: Mapping[str, Any],
        *,
        fingerprint: str,
        tags: Mapping[str, str] | None = None,
        wait_seconds: float = 15.0,
    ) -> str | None:
        """Open the run of this fingerprint, or go on with it; returns its id, or None while the tracker is down.

        The recipe becomes the run's parameters and its artifact recipe.yaml.
        """
        arguments = {"experiment": experiment, "name": name, "fingerprint": fingerprint, "tags": dict(tags or {})}
        # A resumed run is set to RUNNING again, so this one is always asked anew.
        self._ask("run", "start_run", {**arguments, "asked": time.time_ns()})
        self._ask("recipe", "log_recipe", {"recipe": dict(recipe)})
        self.flush(wait_seconds)
        return self.run_id

    def log_dataset(
        self,
        name: str,
        digest: str,
        source: str,
        *,
        context: str = "training",
        **facts: Any,
    ) -> None:
        """Link data to the run; `digest` identifies it (of a corpus, the fingerprint of its token shards).

        `source` is where it lies; `facts` are its sizes (`documents`, `text_bytes`, `tokens`, `files`, ...).
        """
        arguments = {"name": name, "digest": digest, "source": source, "facts": facts, "context": context}
        self._ask(f"dataset {name} {context}", "log_dataset", arguments)

    def log_checkpoint(
        self,
        checkpoint_dir: str | Path,
        step: int,
        metrics: Mapping[str, float] | None = None,
        *,
        by_reference: bool | None = None,
    ) -> None:
        """Store a checkpoint folder as a LoggedModel with its metrics, by default the validation ones of config.json.

        by_reference: note where it lies instead of copying it; by default above `COPY_LIMIT_BYTES`.
        """
        arguments = {
            "folder": str(Path(checkpoint_dir).resolve()),
            "step": step,
            "metrics": None if metrics is None else dict(metrics),
            "by_reference": by_reference,
        }
        self._ask(f"checkpoint {step}", "log_checkpoint", arguments, identity=[step, arguments["metrics"]])

    def log_metrics(self, metrics: Mapping[str, float], step: int, *, checkpoint_step: int | None = None) -> None:
        """Send numbers that stand in no journal; with `checkpoint_step` they hang on that checkpoint, too."""
        arguments = {"metrics": dict(metrics), "step": step, "checkpoint_step": checkpoint_step}
        names = hashlib.blake2b("\n".join(sorted(metrics)).encode(), digest_size=8).hexdigest()
        stamped = {**arguments, "time": time.time_ns() // 1_000_000}
        self._ask(f"metrics {step} {checkpoint_step} {names}", "log_metrics", stamped, identity=arguments)

    def log_samples(self, samples: Sequence[Mapping[str, Any]], step: int) -> None:
        """Store sample generations ({"prompt", "continuation", ...} each) as samples/step-<step>.md and .json."""
        self._ask(f"samples {step}", "log_samples", {"samples": [dict(sample) for sample in samples], "step": step})

    def log_artifact(self, path: str | Path, folder: str = "") -> None:
        """Store a file among the run's artifacts; again when its content has changed. Raises OSError without one."""
        path = Path(path).resolve()
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "blake2b").hexdigest()
        self._ask(f"artifact {folder}/{path.name}", "log_artifact", {"path": str(path), "folder": folder}, [content])

    def register_best(self, name: str, step: int, alias: str = "best") -> None:
        """Register the checkpoint of a step under a model name and let the alias point to it."""
        self._ask(f"register {name} {alias}", "register", {"name": name, "step": step, "alias": alias})

    def finish(self, status: str = "FINISHED") -> None:
        """Mark the run's end: FINISHED, FAILED or KILLED."""
        self._ask("finish", "finish", {"status": status, "asked": time.time_ns()})

    # Delivery.

    @property
    def run_id(self) -> str | None:
        """Id of the run in MLflow, once it has one."""
        return load_state(self._state_path).run_id

    @property
    def failures(self) -> dict[str, str]:
        """What MLflow refused for good, with the reason."""
        return load_state(self._state_path).failed

    def result(self, key: str) -> Any:
        """What a request gave: the model id of `checkpoint <step>`, the version of `register <name> <alias>`."""
        return load_state(self._state_path).done.get(key, {}).get("result")

    def is_done(self) -> bool:
        """Whether nothing waits to be sent; asks only files, not the tracker."""
        return not self._pending(load_state(self._state_path))

    def start(self) -> None:
        """Start the background thread; it sends every `interval_seconds` what has come up."""
        if self._thread is None or not self._thread.is_alive():
            self._closing = False
            self._thread = threading.Thread(target=self._run, name="mlflow-sender", daemon=True)
            self._thread.start()

    def flush(self, timeout_seconds: float = 60.0) -> bool:
        """Try to send everything now; returns whether it all went out in that time."""
        self.start()
        deadline = time.monotonic() + timeout_seconds
        with self._condition:
            self._asked += 1
            mine = self._asked
            self._condition.notify_all()
            while self._answered < mine:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._condition.wait(left)
            return self._succeeded >= mine

    def close(self, timeout_seconds: float = 30.0) -> bool:
        """Try to send what is left, then end the thread; returns whether all went out. What did not stays for later.

        A second call does nothing.
        """
        if self._closing:
            return self.is_done()
        complete = self.is_done() or self.flush(timeout_seconds)
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        if self._thread is not None:
            self._thread.join(1.0)  # it is a daemon: one that hangs in a call does not keep the process
        if not complete:
            log.warning(
                "tracking: not everything reached %s; the rest is in %s", self.location.tracking_uri, self.folder
            )
        return complete

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        failures = 0
        while True:
            with self._condition:
                wait = self._delay(failures) if failures else self.interval_seconds
                if not self._closing and self._asked == self._answered:
                    self._condition.wait(wait)
                if self._closing and self._asked == self._answered:
                    return
                asked = self._asked
            complete = self._attempt()
            failures = 0 if complete else failures + 1
            with self._condition:
                self._answered = asked
                if complete:
                    self._succeeded = asked
                self._condition.notify_all()

    def _attempt(self) -> bool:
        try:
            with locked(self.folder / "lock"):
                state = load_state(self._state_path)
                if self._pending(state):
                    self._deliver(state)
        except Exception as error:
            if not self._reported_down:
                log.error(
                    "tracking: %s cannot be reached (%s); training goes on, and everything is sent later",
                    self.location.tracking_uri,
                    first_line(error),
                )
            log.debug("tracking: failed attempt", exc_info=True)
            self._reported_down = True
            self._tracker = None
            return False
        if self._reported_down:
            log.warning("tracking: %s is back; everything was sent", self.location.tracking_uri)
        self._reported_down = False
        return True

    def _pending(self, state: State) -> bool:
        if state.tracking_uri != self.location.tracking_uri and self._outbox.exists():
            return True
        requests = Position(state.outbox_offset, state.outbox_tail)
        if read_lines(self._outbox, requests, 1)[1] != requests:
            return True
        lines = Position(state.journal_offset, state.journal_tail)
        return self.journal is not None and self._outbox.exists() and read_lines(self.journal, lines, 1)[1] != lines

    def _deliver(self, state: State) -> None:
        """Carry out all requests, then send the journal. Raises at the first outage; the state holds what was done."""
        tracker = self._tracker = self._tracker or Tracker(self.location)
        if state.tracking_uri != self.location.tracking_uri:
            state = State(tracking_uri=self.location.tracking_uri)  # another tracker has nothing of this yet
        if not self._checked and state.run_id is not None:
            try:
                tracker.check_run(state.run_id)
            except RunGone:
                log.warning("tracking: run %s is gone from the tracker; it is sent again as a new one", state.run_id)
                state = State(tracking_uri=self.location.tracking_uri)
        delivery = Delivery(tracker, state, lambda: save_state(self._state_path, state), self.journal)
        self._checked = True
        while True:
            before = Position(state.outbox_offset, state.outbox_tail)
            lines, after = read_lines(self._outbox, before)
            if after == before:
                break
            for request in lines:
                delivery.carry_out(request)
            state.outbox_offset, state.outbox_tail = after.offset, after.tail
            save_state(self._state_path, state)
        if state.run_id is not None:
            delivery.send_journal()

    def _ask(self, key: str, kind: str, arguments: dict[str, Any], identity: Any = None) -> None:
        digest = digest_of(arguments if identity is None else identity)
        if self._last_digests.get(key) == digest and key not in self.failures:
            return
        self._last_digests[key] = digest
        append_line(self._outbox, {"key": key, "kind": kind, "digest": digest, "arguments": arguments})

    def _read_last_digests(self) -> dict[str, str]:
        digests: dict[str, str] = {}
        position = Position()
        while True:
            lines, position = read_lines(self._outbox, position)
            if not lines:
                return digests
            digests |= {line["key"]: line["digest"] for line in lines}
