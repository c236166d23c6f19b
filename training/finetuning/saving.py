"""The finished model as a checkpoint for use, with its heads and what it was made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from training.adapters import Adaptation
from training.checkpoints import FORMAT, CheckpointError, describe
from training.checkpoints.files import read_json, write_bytes, write_json, write_tensors
from training.checkpoints.folders import abandon, begin, commit
from training.finetuning.network import Network
from training.models.sharing import shared_names

HEAD = "head.safetensors"


def save_model(
    folder: Path,
    checkpoint: Path,
    network: Network,
    adaptation: Adaptation,
    merge: bool,
    task: dict[str, Any],
    parent: dict[str, Any],
    further: dict[str, Any],
) -> bool:
    """Write a checkpoint folder; returns whether its weights are plain ones.

    config.json is the parent's with `task`, `parent` and `further` facts; heads lie in head.safetensors. An adapter
    that is merged becomes part of the weights, in the network, too; another one lies in adapter.safetensors.
    """
    plain = adaptation.config.method in ("full", "frozen") or (merge and adaptation.mergeable)
    if plain:
        adaptation.merge()
    doubled = shared_names(network.model)
    tensors = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in adaptation.base_tensors().items()
        if name not in doubled
    }
    heads = {name: tensor.detach().cpu().contiguous() for name, tensor in network.heads.state_dict().items()}
    description = {
        name: value
        for name, value in describe(checkpoint).items()
        if name not in ("task", "parent", "adapter", "pooling")
    }
    description |= {"format": FORMAT, "task": task, "parent": parent, **further}
    hidden = begin(folder)
    try:
        write_bytes(hidden / "tokenizer.json", (checkpoint / "tokenizer.json").read_bytes())
        write_tensors(hidden / "model.safetensors", tensors)
        if heads:
            write_tensors(hidden / HEAD, heads)
        write_json(hidden / "config.json", description)
        if not plain:
            adaptation.save(hidden)
    except OSError as error:
        abandon(folder)
        raise CheckpointError(f"{folder}: cannot be written ({error}); check the folder, or free some space") from None
    commit(folder)
    return plain


def load_heads(network: Network, folder: Path) -> None:
    """Fill the heads of a network from a folder that `save_model` wrote; raises ValueError naming what is wrong."""
    path = folder / HEAD
    if not path.is_file():
        raise CheckpointError(f"{path}: missing; {folder} is no model that was fine-tuned with a head")
    try:
        network.heads.load_state_dict(load_file(path))
    except (RuntimeError, OSError) as error:
        raise CheckpointError(f"{path}: does not fit the task: {error}") from None


def task_of(folder: Path) -> dict[str, Any]:
    """What config.json says of the tasks; raises ValueError where it was not fine-tuned."""
    task = read_json(folder / "config.json").get("task")
    if not isinstance(task, dict):
        raise ValueError(f"{folder / 'config.json'}: names no task: the model was not fine-tuned")
    return task
