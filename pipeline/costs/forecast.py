"""A forecast of what a stage will use, from the most similar run of the same stage in the store.

The yardstick of a stage's work is known before it runs: the bytes of its sources or of the files that it reads; of a
training its tokens times the weights that each passes through; of an evaluation those weights. Where a stage's inputs
are not there yet, it is taken to have the share in the work that it had before: the bytes of the sources are compared.
What a run used is scaled by the ratio of the works, so a forecast across very different sizes is a rough one.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.costs.stages import stage_facts
from pipeline.store import EXECUTION, Committed, Store, is_local, read_json

MOST_RUNS = 6
"""Newest runs of a stage that are looked at."""
_SCALED = ("seconds", "cpu_seconds", "device_hours", "cpu_joules", "memory_joules", "gpu_joules")


@dataclass(frozen=True)
class Forecast:
    """What a stage is expected to use, as `account` takes it, and what that rests on."""

    facts: dict[str, Any]
    basis: str


def foresee(
    store: Store,
    name: str,
    fingerprint: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    sources: float = 0.0,
) -> Forecast | None:
    """The forecast of a stage with this identity; None where no run of it in the store can be compared with.

    `config` is the stage's identity, `inputs` the fingerprints of its inputs by name, `sources` the bytes of the run's
    sources, or 0 where only inputs that are there are to be compared. Runs of this machine go before
    those of others, and then those of the same objective.
    """
    if not is_local(store.root):
        return None
    work = _work(store, name, config, inputs)
    objective = _objective(store, name, config, inputs)
    found = []
    for stage in _earlier(store, name, fingerprint):
        if work:
            needed, done = work, _work(store, name, stage.manifest["config"], stage.manifest["inputs"])
        elif name == "evaluate":  # of a model of the same kind, about the same
            needed = done = 1.0
        elif name == "train":  # the weights of the blocks alone: the vocabulary is not known yet
            needed, done = _work(store, name, config, {}), _work(store, name, stage.manifest["config"], {})
        else:
            needed, done = sources, _sources(store, stage)
        execution = read_json(f"{stage.path}/{EXECUTION}")
        if needed and done and (not execution.get("units_of_earlier_runs") or name == "train"):
            elsewhere = execution.get("host") != platform.node()
            other = _objective(store, name, stage.manifest["config"], stage.manifest["inputs"]) != objective
            found.append((elsewhere, other, abs(math.log(needed / done)), needed / done, stage))
    if not found:
        return None
    elsewhere, _, _, ratio, stage = min(found, key=lambda one: one[:3])
    facts = stage_facts(stage, _parent(store, stage.manifest["inputs"], "train"))
    facts = {key: value * ratio if key in _SCALED and value is not None else value for key, value in facts.items()}
    where = "another machine" if elsewhere else "this machine"
    return Forecast(facts, f"{ratio:.3g} times the work of {name} {stage.fingerprint} on {where}")


def _earlier(store: Store, name: str, fingerprint: str) -> list[Committed]:
    """The newest committed outputs of a stage that have a record of their execution, but for one."""
    folders = [path.parent for path in Path(store.root, name).glob(f"*/{EXECUTION}") if path.parent.name != fingerprint]
    folders.sort(key=lambda folder: folder.joinpath(EXECUTION).stat().st_mtime, reverse=True)
    refs = [store.ref(name, folder.name) for folder in folders[:MOST_RUNS]]
    return [ref.committed() for ref in refs if ref.is_committed]


def _work(store: Store, name: str, config: Mapping[str, Any], inputs: Mapping[str, str]) -> float:
    """The yardstick; 0 where it cannot be told."""
    if name == "ingest":
        return source_bytes(config)
    if name == "train":
        head = _head(store, inputs)
        return _tokens(config) * (_blocks(config) + head * config["model"]["width"]) if head or not inputs else 0.0
    if name == "evaluate":
        train = _parent(store, inputs, "train")
        if train is None:
            return 0.0
        model = train.manifest["config"]
        return _blocks(model) + _head(store, train.manifest["inputs"]) * model["model"]["width"]
    parents = [_parent(store, inputs, parent) for parent in inputs]
    # Of inputs under their own stage's name each counts: by some of them alone there would seem to be little to do.
    if any(parent is None and Path(store.root, name).is_dir() for name, parent in zip(inputs, parents, strict=True)):
        return 0.0
    return float(sum(entry["bytes"] for parent in parents if parent for entry in parent.manifest["files"]))


def source_bytes(ingest: Mapping[str, Any]) -> float:
    """Bytes of all sources, by the identity of an ingest stage."""
    files = [file for source in ingest.get("sources", ()) for file in source.get("files", ())]
    return float(sum(file.get("bytes") or 0 for file in files))


def _sources(store: Store, stage: Committed) -> float:
    """Bytes of the sources that a stage's output was made from; 0 where that cannot be followed."""
    if stage.name == "ingest":
        return source_bytes(stage.manifest["config"])
    for name in stage.manifest["inputs"]:
        parent = _parent(store, stage.manifest["inputs"], name)
        if parent is not None:
            return _sources(store, parent)
    return 0.0


def _objective(store: Store, name: str, config: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """What is learned, of a training and its evaluation."""
    if name == "evaluate":
        train = _parent(store, inputs, "train")
        config = train.manifest["config"] if train is not None else {}
    objective = config.get("objective") if name in ("train", "evaluate") else None
    return str(objective["name"]) if objective else ""


def _tokens(config: Mapping[str, Any]) -> float:
    training = config["training"]
    length = training.get("sequence_length") or config["model"]["context_length"]
    return float(training["steps"] * training["batch_size"] * length)


def _blocks(config: Mapping[str, Any]) -> float:
    """About the weights of the blocks: 12 times layers times width squared (Kaplan et al. 2020)."""
    return float(12 * config["model"]["layers"] * config["model"]["width"] ** 2)


def _head(store: Store, inputs: Mapping[str, str]) -> int:
    """The size of the vocabulary; 0 where it is not known yet."""
    tokenize = _parent(store, inputs, "tokenize")
    return int(tokenize.manifest["summary"]["tokenizer"]["vocabulary_size"]) if tokenize is not None else 0


def _parent(store: Store, inputs: Mapping[str, str], name: str) -> Committed | None:
    """An input that lies in this store under its own stage's name."""
    ref = store.ref(name, inputs[name]) if name in inputs else None
    return ref.committed() if ref is not None and ref.is_committed else None
