"""The steps of a job as folders: each holds the model behind a step, and is what a stopped job goes on from."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training import checkpoints
from training.checkpoints import CheckpointError, TrainerState
from training.checkpoints.folders import begin, commit
from training.models import Model
from training.models.finite import first_not_finite

HEAD = "head.safetensors"
WEIGHTS = "model.safetensors"
_COPIED = ("config.json", WEIGHTS, "tokenizer.json", HEAD)
_DROPPED = (
    "format",
    "model",
    "vocabulary_size",
    "tokenizer_sha256",
    "step",
    "metrics",
    "quantization",
    "compression",
    "parent",
)
"""Facts of a checkpoint that are not those of the model that is made of it."""


def check_parent(folder: Path) -> dict[str, Any]:
    """The description of a checkpoint that can be compressed; raises ValueError saying what is to be done else."""
    description = checkpoints.describe(folder)
    if "quantization" in description:
        raise ValueError(f"{folder}: is quantized already; begin with the model that it was made of")
    if "adapter" in description:
        raise ValueError(f"{folder}: its adapter is not merged; fine-tune with merging, or name the merged model")
    if not (folder / "tokenizer.json").is_file():
        raise ValueError(f"{folder}: has no tokenizer.json; the model cannot be measured without its tokenizer")
    return description


def check_finite(model: Model, place: Path) -> None:
    """Raise ValueError naming a tensor of the model that is not finite."""
    name = first_not_finite(model)
    if name is not None:
        raise ValueError(f"{place / WEIGHTS}: {name} holds NaN or infinite numbers; its training has diverged")


class Stages:
    """Folders `step-00000001`, ... under one root, each with an identity; those of another job are removed."""

    def __init__(self, root: Path, parent: Path, description: Mapping[str, Any], sha256: str) -> None:
        self._root, self._parent = root, parent
        self._facts = {name: value for name, value in description.items() if name not in _DROPPED}
        self._facts["step"] = int(description.get("step") or 0)
        self._facts["parent"] = {"checkpoint": str(parent), "sha256": sha256}
        checkpoints.clean(root)

    def folder(self, index: int) -> Path:
        """Where the model behind step `index` (from 1) lies or will lie; 0: the parent."""
        return self._root / f"step-{index:08d}" if index else self._parent

    def done(self, index: int, identity: str) -> bool:
        """Whether a step has been done; what another job left under its name is removed."""
        folder = self.folder(index)
        if not folder.exists():
            return False
        try:
            found = checkpoints.describe(folder).get("compression", {}).get("identity")
        except CheckpointError:
            found = None
        if found != identity:
            shutil.rmtree(folder)
        return bool(found == identity)

    def save(self, index: int, model: Model, steps: list[dict[str, Any]], identity: str, quantized: bool) -> None:
        """Write the model behind a step, whole or not at all."""
        description = {**self._facts, "compression": {"steps": steps, "identity": identity}}
        tokenizer = self._parent / "tokenizer.json"
        if not quantized:
            checkpoints.save(self._root, model, TrainerState(index, {}, {}, {}), description, tokenizer)
            return
        from training.compression.quantization import save

        hidden = begin(self.folder(index))
        # First, as config.json names its digest.
        shutil.copyfile(tokenizer, hidden / tokenizer.name)
        save(model, description, hidden)
        commit(self.folder(index))

    def publish(self, index: int, target: Path) -> None:
        """Copy what is needed to use the model behind a step to `target`."""
        hidden = begin(target)
        for name in _COPIED:
            source = (self._parent if name == HEAD else self.folder(index)) / name
            if source.is_file():
                shutil.copyfile(source, hidden / name)
        commit(target)
