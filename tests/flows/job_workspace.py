"""A workspace with a small trained run, made without a corpus: for tests of what is done with a finished model."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from pipeline.execution import run_stage
from pipeline.stage import Stage, StageConfig, Unit, UnitOutput, UnitRecord
from pipeline.store import Store, file_sha256
from tests.training.small_models import TEXT, tiny_checkpoint, tiny_tokenizer, write_shard
from training.checkpoints import describe

STEPS = (10, 20)


class Nothing(StageConfig):
    """Where what is taken over lies."""

    folder: str


class Tokenized(Stage[Nothing]):
    """Token shards of a few sentences, as the stage tokenize leaves them."""

    name = "tokenize"
    version = 1

    def identity(self) -> Any:
        return "tokens"

    def units(self) -> list[Unit]:
        return [Unit(0, "shards", {})]

    def process(self, unit: Unit, output: UnitOutput) -> None:
        for split, repeats in (("train", 40), ("validation", 6)):
            path = output.scratch / f"{split}.bin"
            shard = write_shard(path, TEXT * repeats, tiny_tokenizer(), split, "tiny", "en")
            facts = {key: value for key, value in dataclasses.asdict(shard).items() if value is not None}
            facts = {key: value for key, value in facts.items() if key not in ("path", "sha256")}
            output.adopt("tokens", path, path.name, **facts)

    def summary(self, records: Sequence[UnitRecord]) -> dict[str, Any]:
        sha256 = file_sha256(Path(self.config.folder, "tokenizer.json"))
        tokenizer = {"sha256": sha256, "vocabulary_size": 400, "end_of_text_id": 0, "special_tokens": {}}
        return {"tokenizer": tokenizer}


class Trained(Stage[Nothing]):
    """Two checkpoints of random weights, as the stage train leaves them."""

    name = "train"
    version = 1

    def identity(self) -> Any:
        return "model"

    def units(self) -> list[Unit]:
        return [Unit(0, "checkpoints", {})]

    def process(self, unit: Unit, output: UnitOutput) -> None:
        for folder in sorted(Path(self.config.folder, "checkpoints").iterdir()):
            for path in sorted(folder.iterdir()):
                step = int(folder.name.removeprefix("step-"))
                output.adopt("checkpoints", path, f"{folder.name}/{path.name}", step=step)

    def summary(self, records: Sequence[UnitRecord]) -> dict[str, Any]:
        return {"steps": STEPS[-1], "best_step": STEPS[-1]}


def make_workspace(workspace: Path) -> Path:
    """Make a workspace whose newest run trained a model to step 20; returns it."""
    workspace.mkdir(parents=True, exist_ok=True)
    folder = workspace / "made"
    for step in STEPS:
        tiny_checkpoint(folder, step, context_length=32, seed=step)
    store = Store.at(workspace / "store")
    config = Nothing(folder=str(folder))
    stages = {stage.name: stage for stage in (Tokenized(config, {}), Trained(config, {}))}
    refs = {name: run_stage(stage, store, workers=0) for name, stage in stages.items()}
    record = {
        "recipe": {"name": "tiny"},
        "given": {},
        "identity": "0123",
        "stages": {name: committed.fingerprint for name, committed in refs.items()},
        "updated": time.time(),
        "state": "finished",
    }
    (workspace / "runs").mkdir()
    (workspace / "runs" / "tiny.json").write_text(json.dumps(record))
    assert describe(folder / "checkpoints" / "step-00000020")["step"] == STEPS[-1]
    return workspace


def write_data(folder: Path) -> Path:
    """Write the files of a classification task and of a task of choices; returns their folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [("The man saw the book.", "yes"), ("The women see these books.", "no")] * 8
    lines = ["sentence\tlabel", *("\t".join(row) for row in rows)]
    (folder / "train.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "dev.tsv").write_text("\n".join(lines[:9]) + "\n", encoding="utf-8")
    questions = [
        {"question": f"The {noun} saw the", "choices": ["book.", "every day."], "answer": place}
        for place, noun in enumerate(("man", "women"))
    ] * 3
    (folder / "quiz.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions), encoding="utf-8")
    return folder


def task_file(folder: Path) -> Path:
    """Write the YAML of the task of choices; returns it."""
    task = {
        "name": "quiz",
        "form": "choices",
        "file": "quiz.jsonl",
        "prompt": "{question}",
        "choices_field": "choices",
        "answer": "answer",
    }
    path = folder / "quiz.yaml"
    path.write_text(yaml.safe_dump(task), encoding="utf-8")
    return path


def recipes(folder: Path) -> dict[str, dict[str, Any]]:
    """A recipe of each kind over the files of `write_data`, whose paths are relative to their folder."""
    task = {
        "name": "books",
        "kind": "classification",
        "train": "train.tsv",
        "dev": "dev.tsv",
        "columns": {"text": "sentence"},
    }
    execution = {"threads": 1, "device": "cpu"}
    return {
        "finetuning": {
            "name": "books",
            "finetuning": {"tasks": [task], "epochs": 1, "batch_size": 8, "log_every": 1},
            "execution": execution,
        },
        "suites": {
            "name": "quizzes",
            "suites": {"tasks": [str(task_file(folder))], "root": ".", "bootstrap": 20},
            "every_checkpoint": True,
            "execution": execution,
        },
        "compression": {
            "name": "half",
            "compression": {
                "steps": [{"prune": {"method": "magnitude", "share": 0.5}}],
                "perplexity_tokens": 500,
                "speed_seconds": 0.0,
            },
            "execution": execution,
        },
    }
