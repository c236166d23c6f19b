"""Checkpoints: folders that are whole or absent.

    checkpoints/step-00000100/
        model.safetensors     weights
        config.json           model config, vocabulary, tokenizer digest, step, losses: enough to use the model
        tokenizer.json        a copy, where the run has one
        trainer.safetensors   optimiser state
        trainer.json          step, identity of the run, state of the callbacks, size and sha256 of every file

A checkpoint is written into a hidden folder, each file flushed to the disk, then renamed. There is no pickle in it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.config import ModelConfig, from_dict, to_dict
from training.models.gpt import GPT

FORMAT = 1
_NAME = re.compile(r"step-(\d{8,})")
_HIDDEN = (".writing-", ".removing-")


class CheckpointError(ValueError):
    """A checkpoint cannot be read or written, or belongs to another run."""


@dataclass
class TrainerState:
    """What a run needs to go on as if it had never stopped."""

    step: int
    tensors: dict[str, Tensor]
    """Optimiser state by parameter name and key."""
    identity: dict[str, Any]
    """`TrainingRun.identity()` of the run that wrote it."""
    extra: dict[str, Any]
    """JSON state of the trainer and its callbacks."""


def load_model(checkpoint_dir: str | Path, device: str | torch.device = "cpu") -> tuple[GPT, ModelConfig]:
    """Load the model of a checkpoint for use: float32, in evaluation mode, on `device`.

    Raises CheckpointError (a ValueError) naming the file when something is missing, damaged or of another format.
    """
    folder = Path(checkpoint_dir)
    description = describe(folder)
    try:
        config = from_dict(ModelConfig, description["model"], "model")
        vocabulary_size = int(description["vocabulary_size"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / 'config.json'}: {error}") from None
    # Building draws weights that are overwritten at once; the caller's random numbers must not depend on that.
    with torch.random.fork_rng(devices=[]):
        model = GPT(config, vocabulary_size)
    load_weights(model, folder)
    return model.to(device).eval(), config


def load_weights(model: GPT, checkpoint_dir: str | Path) -> None:
    """Copy the weights of a checkpoint into a model of the same shape; raises CheckpointError where it differs."""
    path = Path(checkpoint_dir) / "model.safetensors"
    weights = _read_tensors(path)
    if model.config.tied_embeddings and "embedding.weight" in weights:
        weights["head.weight"] = weights["embedding.weight"]
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: does not fit the model: {error}") from None


def describe(checkpoint_dir: str | Path) -> dict[str, Any]:
    """The content of a checkpoint's config.json; raises CheckpointError if there is none or it is of another format."""
    path = Path(checkpoint_dir) / "config.json"
    description = _read_json(path)
    if description.get("format") != FORMAT:
        raise CheckpointError(f"{path}: format {description.get('format')!r}; this version reads format {FORMAT}")
    return description


def list_checkpoints(checkpoints_dir: str | Path) -> list[Path]:
    """Finished checkpoint folders, oldest step first."""
    root = Path(checkpoints_dir)
    if not root.is_dir():
        return []
    return sorted((path for path in root.iterdir() if _NAME.fullmatch(path.name)), key=step_of)


def step_of(checkpoint_dir: Path) -> int:
    """The step in a checkpoint folder's name."""
    match = _NAME.fullmatch(checkpoint_dir.name)
    assert match, checkpoint_dir
    return int(match[1])


def save(
    checkpoints_dir: str | Path,
    model: GPT,
    state: TrainerState,
    description: dict[str, Any],
    tokenizer_path: str | Path | None = None,
) -> Path:
    """Write the checkpoint of `state.step` and return its folder; an older one of the same step is replaced.

    `description` adds JSON facts (losses, tokens, dataset) to config.json. Raises CheckpointError when the disk is full
    or the folder cannot be written; nothing half-written stays behind under a name that a reader believes.
    """
    root = Path(checkpoints_dir)
    final = root / f"step-{state.step:08d}"
    hidden = root / f"{_HIDDEN[0]}{final.name}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(hidden, ignore_errors=True)
        hidden.mkdir()
        _write_files(hidden, model, state, description, tokenizer_path)
        _sync(hidden)
        if final.exists():
            remove(final)
        hidden.rename(final)
        _sync(root)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(hidden, ignore_errors=True)
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        advice = "free some space" if full or "space" in str(error) else "check the folder"
        raise CheckpointError(
            f"{final}: cannot be written ({error}); {advice} and start the same command again"
        ) from None
    return final


def load_state(checkpoint_dir: str | Path) -> TrainerState:
    """Read the trainer's state after checking the size and sha256 of every file; raises CheckpointError if damaged."""
    folder = Path(checkpoint_dir)
    document = _read_json(folder / "trainer.json")
    try:
        if document["format"] != FORMAT:
            raise CheckpointError(f"{folder}: format {document['format']!r}; this version reads format {FORMAT}")
        for name, facts in document["files"].items():
            _verify(folder / name, facts["bytes"], facts["sha256"])
        tensors = _read_tensors(folder / "trainer.safetensors")
        return TrainerState(document["step"], tensors, document["identity"], document["extra"])
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder / 'trainer.json'}: unexpected content: {error!r}") from None


def remove(checkpoint_dir: Path) -> None:
    """Delete a checkpoint; a crash in the middle leaves nothing that looks like one."""
    hidden = checkpoint_dir.with_name(f"{_HIDDEN[1]}{checkpoint_dir.name}")
    shutil.rmtree(hidden, ignore_errors=True)
    checkpoint_dir.rename(hidden)
    shutil.rmtree(hidden)


def clean(checkpoints_dir: str | Path) -> None:
    """Delete what a killed process left half-written or half-removed."""
    root = Path(checkpoints_dir)
    if root.is_dir():
        for path in root.iterdir():
            if path.name.startswith(_HIDDEN):
                shutil.rmtree(path)


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Lines `field: theirs -> ours` for each entry of two identities that differs."""
    keys = sorted(ours.keys() | theirs.keys())
    # Through JSON, since `theirs` comes from there.
    ours = json.loads(json.dumps(ours))
    return [f"{key}: {theirs.get(key)!r} -> {ours.get(key)!r}" for key in keys if ours.get(key) != theirs.get(key)]


def _write_files(
    folder: Path, model: GPT, state: TrainerState, description: dict[str, Any], tokenizer_path: str | Path | None
) -> None:
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if model.config.tied_embeddings:
        del weights["head.weight"]
    save_file(weights, folder / "model.safetensors")
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()},
        folder / "trainer.safetensors",
    )
    digest = None
    if tokenizer_path is not None:
        shutil.copyfile(tokenizer_path, folder / "tokenizer.json")
        digest = _sha256(folder / "tokenizer.json")
    config = {
        "format": FORMAT,
        "model": to_dict(model.config),
        "vocabulary_size": model.vocabulary_size,
        "tokenizer_sha256": digest,
        "step": state.step,
        **description,
    }
    _write_json(folder / "config.json", config)
    files = {path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in sorted(folder.iterdir())}
    trainer = {
        "format": FORMAT,
        "step": state.step,
        "identity": state.identity,
        "extra": state.extra,
        "files": files,
    }
    _write_json(folder / "trainer.json", trainer)
    for path in folder.iterdir():
        _sync(path)


def _verify(path: Path, length: int, sha256: str) -> None:
    try:
        found = path.stat().st_size
        if found != length:
            raise CheckpointError(f"{path}: {found} bytes instead of {length}")
        if _sha256(path) != sha256:
            raise CheckpointError(f"{path}: its content is damaged (sha256 differs)")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None
    except SafetensorError as error:
        raise CheckpointError(f"{path}: damaged: {error}") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: damaged: {error}") from None
    if not isinstance(document, dict):
        raise CheckpointError(f"{path}: damaged: not a JSON object")
    return document


def _write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
