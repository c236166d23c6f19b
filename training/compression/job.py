"""One compression from its config to results.json: the steps in order, each model measured, the last one published."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from training.checkpoints import load_model
from training.compression import table
from training.compression.config import CompressionConfig
from training.compression.stages import Stages, check_finite, check_parent
from training.compression.steps import Workbench
from training.compression.tuning import identity_of
from training.config import Shard, TrainingConfig, from_dict, to_dict
from training.config.reading import STRICT
from training.devices import Compute, resolve
from training.distributed import World
from training.evaluation.judged import Judged
from training.files import write_file
from training.run import sole_owner
from training.weights import weights_sha256

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class CompressionRun(CompressionConfig):
    """All that `python -m training.compression CONFIG.json` needs."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    checkpoint: str = ""
    """Folder of the model."""
    output: str = ""
    """Folder for results.json, model/ and what a stopped job goes on from."""
    data: list[Shard] = field(default_factory=list)
    """The token shards that the model was trained on: train ones for training, validation ones for measuring."""
    threads: int = 0
    """CPU threads; 0 takes one for each core that the process may use."""
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("checkpoint", "output"):
            if not getattr(self, name):
                raise ValueError(f"{name} must name a folder")


def run(config: Mapping[str, Any], report: Report = lambda event: None) -> dict[str, Any]:
    """Compress a model as a `CompressionRun` says, write results.json and model/ and return the results:

        kind, checkpoint (step, sha256), parent, device, precision
        steps    the name of each step
        table    the figures by model: of the parent ("before") and behind each step; see `table.py`
        metrics  the figures of the last model by name; those of the first under before/, and their ratios under ratio/

    A job that was stopped goes on from the last step that was done, and within a training from its newest state; the
    result is the same. Raises ValueError for what the user must change.
    """
    settings = from_dict(CompressionRun, dict(config))
    compute = resolve(
        TrainingConfig(device=settings.device, precision=settings.precision, threads=settings.threads, compile="off"),
        World(),
    )
    output = Path(settings.output)
    with sole_owner(output):
        return Job(settings, compute, output, report).run()


class Job:
    """One compression of one model."""

    def __init__(self, settings: CompressionRun, compute: Compute, output: Path, report: Report) -> None:
        self._settings, self._compute, self._output, self._report = settings, compute, output, report
        self._parent = Path(settings.checkpoint)
        description = check_parent(self._parent)
        self._sha256 = weights_sha256(self._parent)
        self._description = description
        self._judged = Judged(self._parent, compute, settings.seed)
        check_finite(self._judged.model, self._parent)
        self._held_out = [shard for shard in settings.data if shard.split == "validation" and shard.tokens]
        self._bench = Workbench(settings, self._judged, settings.data, output, report)
        self._stages = Stages(output / "stages", self._parent, description, self._sha256)
        self._names = ["before", *(f"{number + 1} {step.name}" for number, step in enumerate(settings.steps))]

    def run(self) -> dict[str, Any]:
        """Do all steps, measure all models, and write what came of it."""
        settings = self._settings
        done = self._finished()
        if done is not None:
            return done
        self._report(
            {
                "event": "start",
                "parameters": self._judged.model.parameters_count(),
                "device": str(self._compute.device),
                "precision": self._compute.precision,
                "steps": sum(step.tuning.steps for step in settings.steps),
                "parts": self._names[1:],
            }
        )
        figures = [self._measured(0, None)]
        try:
            for index in range(len(settings.steps)):
                self._step(index)
                figures.append(self._measured(index + 1, figures[index]))
        finally:
            self._bench.close()
        folders = [self._stages.folder(index) for index in range(len(figures))]
        if settings.speed_seconds:
            speeds = table.speeds_of(
                folders, self._compute, settings.speed_seconds, settings.speed_batch, settings.seed
            )
            figures = [one | speed for one, speed in zip(figures, speeds, strict=True)]
        self._stages.publish(len(settings.steps), self._output / "model")
        results = self._results(figures)
        write_file(
            self._output / "results.json",
            json.dumps(results, ensure_ascii=False, indent=1, allow_nan=False) + "\n",
        )
        # Only now, when all is written, is there nothing to go on from.
        for name in ("stages", "training", "measures"):
            shutil.rmtree(self._output / name, ignore_errors=True)
        self._report({"event": "finished", "metrics": results["metrics"], "lines": results["lines"]})
        return results

    def _step(self, index: int) -> None:
        """Do a step, unless it has been done."""
        identity = self._identity(index)
        if self._stages.done(index + 1, identity):
            return
        self._report({"event": "part", "part": self._names[index + 1], "number": index + 1, "of": len(self._names) - 1})
        model = load_model(self._stages.folder(index), self._compute.device)[0]
        before = self._settings.steps[:index]
        zeros = any(step.prune is not None and step.prune.masks for step in before)
        model = self._bench.apply(index, model, zeros, identity)
        check_finite(model, self._stages.folder(index + 1))
        done = [to_dict(step) for step in self._settings.steps[: index + 1]]
        self._stages.save(index + 1, model, done, identity, self._settings.steps[index].quantize is not None)

    def _finished(self) -> dict[str, Any] | None:
        """The results of this very job, where it has been done."""
        path = self._output / "results.json"
        if not (path.is_file() and (self._output / "model").is_dir()):
            return None
        results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if results.get("identity") != self._whole():
            return None
        self._report({"event": "finished", "metrics": results["metrics"], "lines": results["lines"]})
        return results

    def _whole(self) -> str:
        """Identity of the model and of all that is measured."""
        places = ("checkpoint", "output", "data", "threads")
        measured = {name: value for name, value in to_dict(self._settings).items() if name not in places}
        return identity_of(self._identity(len(self._settings.steps) - 1), measured)

    def _identity(self, index: int) -> str:
        """Of all that decides the model behind a step."""
        settings = self._settings
        shards = [[shard.sha256 or shard.path, shard.tokens, shard.split] for shard in settings.data]
        steps = [to_dict(step) for step in settings.steps[: index + 1]]
        seeds = [settings.seed, settings.calibration_batches, self._compute.precision]
        return identity_of(steps, self._sha256, shards, seeds)

    def _measured(self, index: int, before: table.Figures | None) -> table.Figures:
        """The figures of a model but its speed, kept for a job that is stopped later."""
        folder = self._stages.folder(index)
        kept = self._output / "measures" / f"{index}.json"
        identity = identity_of(index, self._whole())
        if kept.is_file():
            document = json.loads(kept.read_text(encoding="utf-8"))
            if document["identity"] == identity:
                return dict(document["figures"])
        judged = Judged(folder, self._compute, self._settings.seed) if index else self._judged
        figures = table.size_of(folder, judged, before)
        figures |= table.quality_of(judged, self._held_out, self._settings.perplexity_tokens)
        figures |= self._scores(index, folder)
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_file(kept, json.dumps({"identity": identity, "figures": figures}, allow_nan=False))
        self._report(
            {"event": "evaluation", "part": self._names[index], "step": self._updates(index), "metrics": figures}
        )
        return figures

    def _updates(self, index: int) -> int:
        """Training steps behind a model."""
        return sum(step.tuning.steps for step in self._settings.steps[:index])

    def _scores(self, index: int, folder: Path) -> table.Figures:
        """The main score of each task."""
        suite = self._settings.suite
        if suite is None:
            return {}
        from training.suites import run as judge

        place = self._output / "measures" / f"suite-{index}"
        place.mkdir(parents=True, exist_ok=True)
        config = {
            **to_dict(suite),
            "checkpoint": str(folder),
            "output": str(place),
            "data": [to_dict(shard) for shard in self._settings.data],
            "threads": self._settings.threads,
            "device": self._settings.device,
        }
        metrics = judge(config, lambda event: None)["metrics"]
        # The main score of a task is the one whose standard error is told.
        main = {name: value for name, value in metrics.items() if f"{name}_error" in metrics}
        return main or dict(metrics)

    def _results(self, figures: list[table.Figures]) -> dict[str, Any]:
        first, last = figures[0], figures[-1]
        metrics: dict[str, float] = {**last, **{f"before/{name}": value for name, value in first.items()}}
        metrics |= {f"ratio/{name}": last[name] / first[name] for name in first if first[name] and name in last}
        return {
            "kind": "compression",
            "checkpoint": {"step": self._description.get("step"), "sha256": self._sha256, "path": str(self._parent)},
            "identity": self._whole(),
            "steps": self._names[1:],
            "device": str(self._compute.device),
            "precision": self._compute.precision,
            "metrics": metrics,
            "tables": {"compression": table.table_of(self._names, figures)},
            "lines": table.lines_of(self._names, figures),
        }
