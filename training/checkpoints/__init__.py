"""Checkpoints: folders that are whole or absent.

    checkpoints/step-00000100/
        model.safetensors     weights (where the run averages them: the average)
        config.json           model config, vocabulary, tokenizer digest, step, losses: enough to use the model
        tokenizer.json        a copy, where the run has one
        trainer.safetensors   optimiser state as <parameter name>/<key>; beside an average the weights as raw/<name>
        trainer.json          step, identity of the run, state of the callbacks, size and sha256 of every file

A checkpoint is written into a hidden folder, each file flushed to the disk, then renamed. There is no pickle in it.
Files hold whole tensors even where the model is sharded: each process writes its rows into them, and trainer.json has
the sha256 of each such range. So a run may go on with another number of processes, sharded or not.
"""

from __future__ import annotations

import json
from typing import Any

from training.checkpoints.folders import (
    CheckpointError,
    FormatError,
    clean,
    list_checkpoints,
    remove,
    remove_after,
    set_aside,
    step_of,
)
from training.checkpoints.reading import (
    Found,
    describe,
    latest_whole,
    load_initial,
    load_model,
    load_state,
    load_weights,
    newest_before,
)
from training.checkpoints.writing import FORMAT, CheckpointWriter, TrainerState, save

__all__ = [
    "FORMAT",
    "CheckpointError",
    "CheckpointWriter",
    "FormatError",
    "Found",
    "TrainerState",
    "clean",
    "describe",
    "differences",
    "latest_whole",
    "list_checkpoints",
    "load_initial",
    "load_model",
    "load_state",
    "load_weights",
    "newest_before",
    "remove",
    "remove_after",
    "save",
    "set_aside",
    "step_of",
]


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Lines `field: theirs -> ours` for each entry of two identities that differs."""
    keys = sorted(ours.keys() | theirs.keys())
    # Through JSON, since `theirs` comes from there.
    ours = json.loads(json.dumps(ours))
    return [f"{key}: {theirs.get(key)!r} -> {ours.get(key)!r}" for key in keys if ours.get(key) != theirs.get(key)]
