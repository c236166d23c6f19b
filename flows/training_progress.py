"""A training as Prefect shows it: one markdown artifact with its figures, newest samples and warnings."""

from __future__ import annotations

import contextlib
import re
import textwrap
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.runtime import flow_run

from flows.progress import Event, listening
from training.events import duration

UPDATE_SECONDS = 5.0
_WARNINGS = 10
_SAMPLE_CHARACTERS = 300
_LINE_CHARACTERS = 90


@contextlib.contextmanager
def following(key: str, stage: str = "train", description: str = "How the training goes") -> Iterator[None]:
    """Keep the artifact `key` of the flow that runs true to the events of a stage's process, once in UPDATE_SECONDS.

    There is none before the first event. A thread of its own sends it: a Prefect server that is slow or down holds up
    nothing, and costs one warning.
    """
    page = Page()
    publisher = _Publisher(page, key, flow_run.get_id(), description)

    def listen(event: Event) -> None:
        if event.get("stage") == stage and "event" in event:
            page.add(event)
            publisher.changed.set()

    with listening(listen), publisher.running():
        yield


class Page:
    """What the events of a training came to so far; the newest of each kind, and the last warnings."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._facts: dict[str, Any] = {}
        self._validation: dict[str, Any] = {}
        self._samples: dict[str, Any] = {}
        self._warnings: deque[str] = deque(maxlen=_WARNINGS)

    def add(self, event: Event) -> None:
        """Take an event in."""
        facts = {name: value for name, value in event.items() if name not in ("event", "stage")}
        with self._lock:
            match event["event"]:
                case "start" | "progress":
                    self._facts.update(facts, state="running")
                case "resumed":
                    self._facts.update(step=facts.get("step"), state="running")
                case "evaluation":
                    self._validation = facts
                case "checkpoint":
                    self._facts["checkpoint_step"] = facts.get("step")
                case "samples":
                    self._samples = facts
                case "finished":
                    counts = {name: len(value) for name, value in facts.items() if isinstance(value, list)}
                    self._facts.update(facts | counts, state="finished", remaining_seconds=0.0)
                case "warning" | "error" | "stalled":
                    self._warnings.append(f"{event['event']}: {facts.get('message', '')}")
                case "rollback":
                    told = f"back from step {facts.get('step')} to step {facts.get('to')}: {facts.get('message', '')}"
                    self._warnings.append(f"rollback: {told}")
                    self._facts["rollbacks"] = self._facts.get("rollbacks", 0) + 1
                case "stopped":
                    self._facts["state"] = "stopped"

    def markdown(self) -> str:
        """The page."""
        with self._lock:
            parts = [_table(_rows(self._facts, self._validation))]
            if self._samples:
                whole = (_shorten(f"{text['prompt']}|{text['continuation']}") for text in self._samples["samples"])
                texts = [line for text in whole for line in textwrap.wrap(text, _LINE_CHARACTERS)]
                parts += [f"Samples at step {self._samples.get('step')} (prompt|continuation)", _fenced(texts)]
            if self._warnings:
                parts += ["Warnings, the newest last", _fenced(list(self._warnings))]
        return "\n\n".join(parts) + "\n"


def _rows(facts: dict[str, Any], validation: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [("State", str(facts.get("state", "starting")))]
    step, steps = facts.get("step"), facts.get("steps")
    if step is not None:
        rows.append(("Step", f"{step:,} of {steps:,} ({step / steps:.1%})" if steps else f"{step:,}"))
    for name, label, form in _SHOWN:
        value = facts.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            rows.append((label, form(value)))
    metrics = {name: value for name, value in validation.get("metrics", {}).items() if isinstance(value, int | float)}
    for name, value in metrics.items():
        label = name.removeprefix("validation/").replace("_", " ")
        shown = f"{value:,.1f}" if label == "perplexity" else f"{value:.4f}"
        rows.append((f"Validation {label}", f"{shown} at step {validation.get('step')}"))
    if facts.get("device"):
        rows.append(("Device", f"{facts.get('processes', 1)} × {facts['device']}, {facts.get('precision', '')}"))
    return rows


_SHOWN: list[tuple[str, str, Any]] = [
    ("loss", "Training loss", "{:.4f}".format),
    ("tokens", "Tokens", "{:,}".format),
    ("tokens_per_second", "Tokens per second", "{:,.0f}".format),
    ("mfu", "MFU (PaLM, appendix B; causal attention in full)", "{:.1%}".format),
    ("memory_bytes", "Peak memory of a process", lambda value: f"{value / 1e9:.2f} GB"),
    ("data_wait_share", "Time spent waiting for data", "{:.1%}".format),
    ("skipped_steps", "Steps skipped", "{:,.0f}".format),
    ("rollbacks", "Rollbacks", "{:,}".format),
    ("cost", "Cost so far", "{:,.2f}".format),
    ("remaining_seconds", "Time left", duration),
    ("checkpoint_step", "Last checkpoint", lambda value: f"step {value:,}"),
    ("parameters", "Parameters", "{:,}".format),
]


def _table(rows: list[tuple[str, str]]) -> str:
    lines = (f"| {label} | {value.replace('|', '¦')} |" for label, value in rows)
    return "\n".join(["| Figure | Value |", "|---|---|", *lines])


def _fenced(lines: list[str]) -> str:
    """Lines as they are: whatever a model wrote, it cannot end the block that it stands in."""
    text = "\n".join(lines)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"


def _shorten(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SAMPLE_CHARACTERS else text[:_SAMPLE_CHARACTERS] + " …"


class _Publisher:
    """Sends the page to Prefect when it has changed, from a thread of its own."""

    def __init__(self, page: Page, key: str, flow_run_id: str | None, description: str) -> None:
        self.changed = threading.Event()
        self._page, self._key, self._flow_run_id = page, key, flow_run_id
        self._description = description
        self._done = threading.Event()
        self._artifact: UUID | None = None
        self._logger = get_run_logger()
        self._complained = False

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Send while the block runs, and once more at its end."""
        thread = threading.Thread(target=self._loop, name="training artifact", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._done.set()
            thread.join(2 * UPDATE_SECONDS)

    def _loop(self) -> None:
        done = False
        while not done:
            done = self._done.wait(UPDATE_SECONDS if self._artifact else min(1.0, UPDATE_SECONDS))
            if self.changed.is_set():
                self.changed.clear()
                self._send()

    def _send(self) -> None:
        try:
            with get_client(sync_client=True) as client:
                if self._artifact is None:
                    created = client.create_artifact(
                        ArtifactCreate(
                            key=self._key,
                            type="markdown",
                            description=self._description,
                            data=self._page.markdown(),
                            flow_run_id=UUID(self._flow_run_id) if self._flow_run_id else None,
                        )
                    )
                    self._artifact = created.id
                else:
                    client.update_artifact(self._artifact, ArtifactUpdate(data=self._page.markdown()))
        except Exception as error:  # of many kinds: network, server, a page that is too large
            if not self._complained:
                self._logger.warning("the artifact %s could not be updated: %s", self._key, error)
            self._complained = True
