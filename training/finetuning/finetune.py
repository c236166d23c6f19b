"""One fine-tuning of one checkpoint: from its files to a model, its scores and its journal."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from training.adapters import Adaptation, adapt
from training.checkpoints import describe, load_model
from training.checkpoints.files import file_digest, read_json
from training.config import TrainingConfig, from_dict, to_dict
from training.devices import Compute, peak_memory_bytes, resolve
from training.distributed import World
from training.files import write_file
from training.finetuning.config import FinetuningConfig
from training.finetuning.judging import LoadedTask, load_task
from training.finetuning.loop import Loop, Report
from training.finetuning.network import Network, set_dropout
from training.finetuning.results import describe_run, judge_all
from training.finetuning.saving import save_model
from training.finetuning.sequences import Reader
from training.models import Model
from training.models.finite import first_not_finite
from training.weights import FILES as WEIGHTS
from training.weights import known_by

JOB = ("checkpoint", "output", "data")
"""What a config holds beside the fields of FinetuningConfig; `data` is not needed here."""


def run(config: Mapping[str, Any], report: Report = lambda event: None) -> dict[str, Any]:
    """Fine-tune a checkpoint and return what is written as results.json.

    config: the fields of `FinetuningConfig`, `checkpoint` (folder of the model) and `output` (folder of the results).
    Written there are results.json, metrics.jsonl, model/ (a checkpoint; its heads in head.safetensors, an adapter that
    is not merged in adapter.safetensors) and artifacts/ (the predictions). The same call on the folder of a killed run
    goes on from its last state, with the same result. The results:

        kind, checkpoint (name, sha256, step, parameters), metrics (flat), tables (scores, history), lines
        method, merged, parameters (trained, all), memory (bytes of what is trained), steps, tokens, seconds, best

    metrics: `<task>/<metric>` of the test examples, or where there are none of the dev examples; `<task>/dev/<metric>`,
    `<task>/test/<metric>`, `<task>/baseline/<metric>` of one who knows the labels' frequencies alone; `dev/score`.
    Raises ValueError for a wrong config, file or checkpoint, naming it.
    """
    settings = from_dict(FinetuningConfig, {name: value for name, value in config.items() if name not in JOB})
    for name in ("checkpoint", "output"):
        if not isinstance(config.get(name), str):
            raise ValueError(f"{name}: missing; it must name a folder")
    checkpoint, output = Path(config["checkpoint"]), Path(config["output"])
    digests = _digests(settings, checkpoint)
    identity = {"config": json.loads(json.dumps(settings.identity())), "digests": digests}
    finished = _finished(output, identity)
    if finished is not None:
        return finished
    output.mkdir(parents=True, exist_ok=True)
    results = Finetuning(settings, checkpoint, output, identity, report).run()
    write_file(output / "results.json", json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False))
    return results


class Finetuning:
    """The parts of one fine-tuning."""

    def __init__(
        self, config: FinetuningConfig, checkpoint: Path, output: Path, identity: dict[str, Any], report: Report
    ) -> None:
        self._config, self._checkpoint, self._output = config, checkpoint, output
        self._identity, self._report = identity, report
        self._compute = _compute(config)
        self._reader = Reader(checkpoint, config.max_length)
        self._network, self._adaptation = self._build()
        self._tasks = self._load_tasks()

    def run(self) -> dict[str, Any]:
        """Train, judge, save; return the results."""
        began = time.perf_counter()
        loop = Loop(
            self._config,
            self._network,
            self._adaptation,
            self._tasks,
            self._output,
            self._identity,
            self._report,
        )
        facts = self._facts(loop)
        self._report({"event": "start", **facts["start"]})
        loop.run()
        artifacts = self._output / "artifacts"
        artifacts.mkdir(exist_ok=True)
        scores = judge_all(self._network, self._tasks, artifacts)
        merged = save_model(
            self._output / "model",
            self._checkpoint,
            self._network,
            self._adaptation,
            self._config.merge,
            self._task(),
            facts["parent"],
            self._further(loop),
        )
        facts["memory"]["peak_bytes"] = peak_memory_bytes(self._compute.device)
        results = describe_run(self._config, loop, scores, self._tasks, {**facts, "merged": merged})
        loop.clear()
        seconds = time.perf_counter() - began
        self._report(
            {
                "event": "finished",
                "steps": loop.step,
                "tokens": loop.tokens,
                "seconds": seconds,
                "metrics": results["metrics"],
                "best_checkpoint": str(self._output / "model"),
            }
        )
        return {**results, "identity": self._identity}

    def _build(self) -> tuple[Network, Adaptation]:
        for field, why in (("quantization", "integers cannot be trained"), ("adapter", "its adapter is not merged")):
            if field in describe(self._checkpoint):
                raise ValueError(f"{self._checkpoint}: {why}; start from the model that it was made of")
        model = load_model(self._checkpoint, self._compute.device)[0]
        _check_finite(model, self._checkpoint)
        if self._config.dropout is not None:
            set_dropout(model, self._config.dropout)
        adaptation = adapt(model, self._config.adapter, self._config.seed)
        self._reader.max_length = min(self._reader.max_length, adaptation.context_length)
        pooling = self._reader.pooling if self._config.pooling == "auto" else self._config.pooling
        dropout = 0.1 if self._config.dropout is None else self._config.dropout
        return Network(model, self._reader, self._compute, pooling, dropout), adaptation

    def _load_tasks(self) -> list[LoadedTask]:
        tasks = []
        random = torch.Generator().manual_seed(self._config.seed)
        for task in self._config.tasks:
            loaded = load_task(task, self._reader, self._config)
            if loaded.kind.has_head:
                self._network.add_head(task.name, loaded.kind.outputs, loaded.kind.of_tokens, random)
            if loaded.truncated:
                shown = f"{loaded.truncated} of {len(loaded.splits['train'].examples)} training examples"
                message = f"{task.name}: {shown} exceed {self._reader.max_length} tokens and are cut"
                self._report({"event": "warning", "message": message})
            tasks.append(loaded)
        return tasks

    def _facts(self, loop: Loop) -> dict[str, Any]:
        """What results and events say of the model and of what is trained."""
        parameters = sum(parameter.numel() for parameter in self._network.parameters())
        trained = [parameter for parameter in self._network.parameters() if parameter.requires_grad]
        sizes = {"gradient_bytes": sum(parameter.numel() * parameter.element_size() for parameter in trained)}
        states = loop.optimizer.state_tensors().values()
        sizes["optimizer_bytes"] = sum(tensor.numel() * tensor.element_size() for tensor in states)
        sizes["weights_bytes"] = sum(p.numel() * p.element_size() for p in self._network.parameters())
        items = [item for task in self._tasks for item in task.splits["train"].items]
        tokens = sum(len(one.ids) for item in items for one in item.sequences)
        start = {
            "parameters": parameters,
            "trained_parameters": sum(parameter.numel() for parameter in trained),
            "device": str(self._compute.device),
            "precision": self._compute.precision,
            "processes": 1,
            "steps": loop.steps,
            "train_tokens": tokens,
            "run_tokens": round(tokens * loop.steps / loop.order.steps_per_epoch),
        }
        description = describe(self._checkpoint)
        sha256 = known_by(self._identity["digests"])
        parent = {"checkpoint": str(self._checkpoint), "sha256": sha256, "step": description.get("step")}
        return {"start": start, "memory": sizes, "parent": parent}

    def _task(self) -> dict[str, Any]:
        """What the checkpoint's config.json says of its tasks."""
        tasks = [task.kind.describe() | {"config": to_dict(task.config)} for task in self._tasks]
        frame = {"pooling": self._network.pooling, "max_length": self._reader.max_length}
        if len(tasks) == 1:
            return {**tasks[0], **frame, "tasks": tasks}
        return {"name": "+".join(task["name"] for task in tasks), "kind": "several", **frame, "tasks": tasks}

    def _further(self, loop: Loop) -> dict[str, Any]:
        """Further entries of config.json: how long it was tuned, and the template of its conversations."""
        further: dict[str, Any] = {"finetuning": {"steps": loop.step, "method": self._config.adapter.method}}
        templates = [task.kind.template.source for task in self._tasks if hasattr(task.kind, "template")]
        return {**further, "chat_template": templates[0]} if templates else further


def _compute(config: FinetuningConfig) -> Compute:
    settings = TrainingConfig(device=config.device, precision=config.precision, threads=config.threads, compile="off")
    return resolve(settings, World())


def _check_finite(model: Model, checkpoint: Path) -> None:
    """Raise ValueError naming the first weights that hold NaN or infinity."""
    name = first_not_finite(model)
    if name is not None:
        raise ValueError(f"{checkpoint}: {name} holds weights that are no number; choose another checkpoint")


def _digests(config: FinetuningConfig, checkpoint: Path) -> dict[str, str]:
    """The sha256 of all that is read, by name; raises ValueError naming a file that is not there."""
    for task in config.tasks:
        for split, path in {"archive": task.archive}.items() if task.archive else task.files().items():
            if not Path(path).is_file():
                raise ValueError(f"tasks.{task.name}.{split}: {path}: no such file")
    own = (*WEIGHTS, "tokenizer.json")
    found = {name: file_digest(checkpoint / name) for name in own if (checkpoint / name).is_file()}
    if WEIGHTS[0] not in found:
        raise ValueError(f"{checkpoint / WEIGHTS[0]}: no such file: the folder is no checkpoint")
    description = json.dumps(describe(checkpoint), sort_keys=True).encode()
    found["config.json"] = hashlib.sha256(description).hexdigest()
    return found | {path: file_digest(Path(path)) for path in config.files()}


def _finished(output: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The results of the same fine-tuning, where the folder holds them."""
    if not (output / "results.json").is_file() or not (output / "model" / "config.json").is_file():
        return None
    try:
        results = read_json(output / "results.json")
    except ValueError:
        return None
    return results if results.get("identity") == identity else None
