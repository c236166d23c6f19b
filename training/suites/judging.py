"""One judging: tasks from their files, every checkpoint asked, results.json written."""

from __future__ import annotations

import dataclasses
import gzip
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from training.config import Shard, TrainingConfig, from_dict
from training.devices import resolve as resolve_compute
from training.distributed import World
from training.files import write_file
from training.suites.config import SuiteConfig
from training.suites.items import Item, items
from training.suites.judge import Judge, Verdict
from training.suites.library import resolve
from training.suites.report import results
from training.suites.task import Task

Report = Callable[[dict[str, Any]], None]
CACHE = "requests.sqlite"
_SECONDS = 2.0
"""Between two reports of the same part."""


@dataclasses.dataclass(frozen=True)
class SuiteRun:
    """What `run` is given beside the fields of SuiteConfig."""

    checkpoint: str
    output: str
    data: list[Shard] = dataclasses.field(default_factory=list)
    threads: int = 0
    device: str = "auto"


def run(config: Mapping[str, Any], report: Report = lambda event: None) -> dict[str, Any]:
    """Judge a checkpoint, and further ones, by task files; write `results.json` into `config["output"]`; return it.

    config: the fields of `SuiteConfig` and of `SuiteRun` as a dict, and perhaps `contamination`: what is known of each
    task's text in the corpus, {task: {"cleaned": bool, "note": str}}. `report` is told of each task as it is done. The
    results are described in `report.results`; `artifacts/items/<task>.jsonl.gz` tells what became of each item.

    Answers are kept in `requests.sqlite` in the output folder as they come: started again after a stop, or with more
    tasks, it goes on from there, to the same numbers. Raises ValueError for a wrong config or task file, a checkpoint
    without tokenizer, and a model that gives no finite number.
    """
    given = dict(config)
    contamination = given.pop("contamination", None) or {}
    own = {entry.name for entry in dataclasses.fields(SuiteRun)}
    wanted = from_dict(SuiteRun, {name: value for name, value in given.items() if name in own})
    settings = from_dict(SuiteConfig, {name: value for name, value in given.items() if name not in own})
    resolved = resolve(settings.tasks, settings.shots)
    asked = {task.name: (task, items(task, settings.root, settings.seed, settings.limit)) for task in resolved.tasks}
    training: dict[str, Any] = {"device": wanted.device, "precision": settings.precision, "threads": wanted.threads}
    compute = resolve_compute(from_dict(TrainingConfig, {**training, "compile": "off"}), World())
    output = Path(wanted.output)
    output.mkdir(parents=True, exist_ok=True)
    folders = _different([wanted.checkpoint, *settings.checkpoints])
    teller = _Teller(report, len(folders) * (len(asked) + (settings.memorization is not None)))
    report({"event": "start", "tasks": len(asked), "items": sum(len(found) for _, found in asked.values())})
    verdicts = []
    for folder in folders:
        judge = Judge(folder, settings, compute, Path(settings.cache) if settings.cache else output / CACHE)
        try:
            verdicts.append(judge.ask(asked, wanted.data, teller.part))
        finally:
            judge.close()
        _tell_of(verdicts[-1], report)
    document = results(verdicts, [task for task, _ in asked.values()], resolved, contamination)
    _write_items(output / "artifacts" / "items", verdicts[0], asked)
    write_file(output / "results.json", json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False) + "\n")
    report({"event": "finished", "metrics": document["metrics"]})
    return document


class _Teller:
    """Says which of how many parts is being done, not too often."""

    def __init__(self, report: Report, steps: int) -> None:
        self._report, self._steps = report, steps
        self._part, self._step, self._told = "", 0, 0.0

    def part(self, name: str, done: int, of: int) -> None:
        if done == of:
            self._step = min(self._step + (name != "memorization" or self._part != name), self._steps)
            self._part = name
        elif time.monotonic() - self._told < _SECONDS:
            return
        self._told = time.monotonic()
        facts = {"step": self._step, "steps": self._steps, "part": name, "done": done, "of": of}
        self._report({"event": "progress", **facts})


def _different(folders: Sequence[str]) -> list[str]:
    """Each folder once, whatever it is called."""
    found: dict[Path, str] = {}
    for folder in folders:
        found.setdefault(Path(folder).resolve(), folder)
    return list(found.values())


def _tell_of(verdict: Verdict, report: Report) -> None:
    step = verdict.checkpoint["step"]
    metrics = {f"{name}/{key}": value for name, one in verdict.tasks.items() for key, value in one.metrics.items()}
    report({"event": "evaluation", "step": step, "checkpoint": verdict.checkpoint["name"], "metrics": metrics})
    for name, why in verdict.skipped.items():
        report({"event": "warning", "message": f"{name}: left out: {why}"})
    for name, count in verdict.cut.items():
        message = f"{name}: {count:,} prompts exceed the model's context; their beginning was cut off"
        report({"event": "warning", "message": message})


def _write_items(folder: Path, verdict: Verdict, asked: Mapping[str, tuple[Task, Sequence[Item]]]) -> None:
    """What the first checkpoint made of each item."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, measured in verdict.tasks.items():
        groups = [item.group for item in asked[name][1]] if asked[name][0].group else None
        lines = []
        for number, record in enumerate(measured.records):
            known = record if groups is None else {**record, "group": groups[number]}
            lines.append(json.dumps(known, ensure_ascii=False) + "\n")
        content = gzip.compress("".join(lines).encode(), compresslevel=6, mtime=0)
        write_file(folder / f"{name}.jsonl.gz", content)
